//! Tests of the faults, over a transport that notes what it is given.

use super::*;
use crate::transport::messages::{Ask, Recall, Recalled, Tell};
use crate::types::{Incarnation, NodeId};

const DEADLINE: Duration = Duration::from_millis(30);

/// Notes the `head` of each request and answers at once.
#[derive(Default)]
struct Notes {
    seen: Mutex<Vec<u64>>,
    handler: Mutex<Option<Arc<dyn Handler>>>,
}

impl Transport for Notes {
    fn serve(&self, _: Hello, handler: Arc<dyn Handler>) {
        *self.handler.lock().unwrap() = Some(handler);
    }

    fn call(
        &self,
        _: &str,
        _: Option<StoreId>,
        request: Request,
        _: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        self.seen.lock().unwrap().push(request.head);
        Box::pin(async {
            Ok(Answer { from: Arc::new(hello()), reply: Reply::new(Tell::Recalled(Recalled::default())) })
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

struct Yes;

impl Handler for Yes {
    fn admit(&self, _: &Hello) -> Result<(), String> {
        Ok(())
    }

    fn handle(&self, _: Arc<Hello>, _: Request) -> BoxFuture<'static, Reply> {
        Box::pin(async { Reply::new(Tell::Recalled(Recalled::default())) })
    }
}

fn hello() -> Hello {
    Hello {
        node: NodeId::from_bits(1),
        store: StoreId::from_bits(1),
        cluster: None,
        incarnation: Incarnation(1),
        generation: 1,
        boot: 1,
        name: "n".into(),
        region: String::new(),
        zone: String::new(),
        peer_address: "peer".into(),
        client_address: String::new(),
        protocol: (1, 1),
        settings: 0,
        defaults: String::new(),
    }
}

fn request(head: u64) -> Request {
    Request { head, budget_us: 1000, ..Request::new(Ask::Recall(Recall { remember: false })) }
}

fn faulty() -> (Faults, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    (Faults::new(Env::real(), notes.clone()), notes)
}

async fn seen(notes: &Notes, n: usize) -> Vec<u64> {
    while notes.seen.lock().unwrap().len() < n {
        tokio::task::yield_now().await;
    }
    notes.seen.lock().unwrap().clone()
}

#[tokio::test]
async fn a_cut_way_out_is_never_seen_and_a_cut_way_back_is() {
    let (faults, notes) = faulty();
    faults.set("peer", Fault { cut_to: true, ..Fault::default() });
    assert_eq!(faults.call("peer", None, request(1), DEADLINE).await, Err(CallError::TimedOut));
    assert!(notes.seen.lock().unwrap().is_empty());
    faults.set("peer", Fault { cut_from: true, ..Fault::default() });
    assert_eq!(faults.call("peer", None, request(2), DEADLINE).await, Err(CallError::TimedOut));
    assert_eq!(*notes.seen.lock().unwrap(), [2]);
    assert!(faults.call("other", None, request(3), DEADLINE).await.is_ok(), "others are not touched");
    faults.heal();
    assert!(faults.call("peer", None, request(4), DEADLINE).await.is_ok());
}

#[tokio::test]
async fn duplicates_arrive_twice_and_are_answered_once() {
    let (faults, notes) = faulty();
    faults.set("peer", Fault { duplicate: 1.0, ..Fault::default() });
    assert!(faults.call("peer", None, request(1), DEADLINE).await.is_ok());
    assert_eq!(seen(&notes, 2).await, [1, 1]);
}

#[tokio::test]
async fn what_was_held_comes_after_what_is_newer() {
    let (faults, notes) = faulty();
    faults.set("peer", Fault { hold: 1.0, ..Fault::default() });
    assert_eq!(faults.call("peer", None, request(1), DEADLINE).await, Err(CallError::TimedOut));
    assert_eq!(faults.call("peer", None, request(2), DEADLINE).await, Err(CallError::TimedOut));
    faults.shared.rules().faults.clear();
    assert!(faults.call("peer", None, request(3), DEADLINE).await.is_ok());
    assert_eq!(faults.returned(), 0);
    faults.heal();
    assert_eq!(seen(&notes, 3).await, [3, 2, 1]);
    assert_eq!(faults.returned(), 2);
}

#[tokio::test]
async fn held_requests_are_bounded() {
    let (faults, notes) = faulty();
    faults.set("peer", Fault { hold: 1.0, ..Fault::default() });
    let calls = (0..2 * MAX_HELD as u64).map(|n| faults.call("peer", None, request(n), DEADLINE));
    futures_util::future::join_all(calls).await;
    faults.heal();
    assert_eq!(seen(&notes, MAX_HELD).await.len(), MAX_HELD);
}

#[tokio::test]
async fn delay_counts_against_the_deadline() {
    let (faults, _) = faulty();
    faults.set("peer", Fault { delay: DEADLINE * 2, ..Fault::default() });
    assert_eq!(faults.call("peer", None, request(1), DEADLINE).await, Err(CallError::TimedOut));
}

#[tokio::test]
async fn one_nodes_rules_cut_it_off_inbound_too() {
    let (faults, notes) = faulty();
    faults.serve(hello(), Arc::new(Yes));
    let handler = notes.handler.lock().unwrap().clone().unwrap();
    let done = Reply::new(Tell::Recalled(Recalled::default()));
    assert_eq!(handler.handle(Arc::new(hello()), request(1)).await, done);
    faults.set("peer", Fault::cut());
    let reply = handler.handle(Arc::new(hello()), request(1)).await;
    assert!(matches!(reply.tell, Some(Tell::Refused(_))), "not handled: {reply:?}");
}
