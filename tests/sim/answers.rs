//! A network that changes what is answered, for bugs that show in answers alone.

use std::sync::Arc;
use std::time::Duration;

use quorate::env::BoxFuture;
use quorate::sim::cluster::Wraps;
use quorate::transport::messages::{Reply, Request};
use quorate::transport::{Answer, CallError, Handler, Hello, Transport};
use quorate::types::StoreId;

/// Changes a reply, given the address it came from.
type Change = dyn Fn(&str, &mut Reply) + Send + Sync;

struct Changed {
    inner: Arc<dyn Transport>,
    change: Arc<Change>,
}

/// Whatever anybody answers goes through `change`.
pub(crate) fn changed(change: impl Fn(&str, &mut Reply) + Send + Sync + 'static) -> Wraps {
    let change: Arc<Change> = Arc::new(change);
    let wrap = move |inner| Arc::new(Changed { inner, change: Arc::clone(&change) }) as Arc<dyn Transport>;
    Wraps { transport: Some(Arc::new(wrap)), ..Wraps::default() }
}

impl Transport for Changed {
    fn serve(&self, hello: Hello, handler: Arc<dyn Handler>) {
        self.inner.serve(hello, handler);
    }

    fn call(
        &self,
        address: &str,
        expect: Option<StoreId>,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Answer, CallError>> {
        let call = self.inner.call(address, expect, request, deadline);
        let (change, address) = (Arc::clone(&self.change), address.to_owned());
        Box::pin(async move {
            let mut answer = call.await?;
            change(&address, &mut answer.reply);
            Ok(answer)
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.inner.shutdown()
    }
}
