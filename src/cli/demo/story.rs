//! The story: each step says what it does, gives the curl line that does the same, and checks what it says.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value as Json;

use super::super::output::{Exit, Failure, Paint, explain_table, print};
use super::super::status::screen;
use super::CITIES;
use super::cluster::Cluster;
use crate::client::{Client, ClientConfig};
use crate::env::Env;
use crate::kv::wire::{ENVELOPE_TYPE, Envelope};
use crate::kv::{Kv, ReadOptions, Status, WriteOptions};
use crate::types::{Bucket, Key, ObjectId};

/// Requests under way at once while the data are loaded and read back.
const SIDE_BY_SIDE: usize = 64;
/// The town that the story is about.
const TOWN: &str = "cities/JP/1850147";

/// A request as the story makes it and as one would type it.
struct Ask {
    node: usize,
    method: Method,
    path: String,
    context: Option<String>,
    body: Option<String>,
    envelope: bool,
}

impl Ask {
    fn get(node: usize, path: impl Into<String>) -> Self {
        Self { node, method: Method::GET, path: path.into(), context: None, body: None, envelope: false }
    }

    fn put(node: usize, path: impl Into<String>, body: impl Into<String>) -> Self {
        Self { method: Method::PUT, body: Some(body.into()), ..Self::get(node, path) }
    }

    fn context(mut self, context: &str) -> Self {
        self.context = Some(context.to_owned());
        self
    }

    /// Asks for the object with all its siblings.
    fn envelope(mut self) -> Self {
        self.envelope = true;
        self
    }
}

/// What came back.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> String {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }

    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// The teller.
pub(super) struct Story<'a> {
    cluster: &'a mut Cluster,
    http: reqwest::Client,
    env: Env,
    paint: Paint,
    chapter: u32,
}

impl<'a> Story<'a> {
    pub(super) fn new(cluster: &'a mut Cluster, env: Env) -> Result<Self, Failure> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build();
        let http = http.map_err(|error| Failure::new(Exit::Failed, format!("no HTTP client: {error}"), ""))?;
        Ok(Self { cluster, http, env, paint: Paint::stdout(), chapter: 0 })
    }

    /// Tells all of it; an error is the first step that did not show what it said.
    pub(super) async fn tell(mut self) -> Result<(), Failure> {
        self.begin().await?;
        self.load().await?;
        self.write_and_read().await?;
        self.lose_a_node().await?;
        self.go_on_without_it().await?;
        self.conflict().await?;
        self.come_back().await
    }

    // -- The steps ---------------------------------------------------------------------------------------------------

    async fn begin(&mut self) -> Result<(), Failure> {
        self.chapter("Three nodes, each a process with a data directory of its own")?;
        for node in 0..self.cluster.len() {
            self.cluster.start(node)?;
        }
        for node in 0..self.cluster.len() {
            self.cluster.wait_ready(node, &self.http).await?;
        }
        for node in 0..self.cluster.len() {
            let process = self.cluster.process_id(node).unwrap_or_default();
            let line = format!("{:6} {}  process {process}", self.cluster.name(node), self.cluster.client_url(node));
            self.say(&line)?;
        }
        let all_up = |status: &Status| status.members.iter().all(|member| member.state == "up");
        let status = self.wait_for_status("all three know each other", all_up).await?;
        let up = status.members.iter().filter(|member| member.state == "up").count();
        self.check(up == 3, &format!("{up} of 3 members are up, in layout {}", status.layout))
    }

    async fn load(&mut self) -> Result<(), Failure> {
        self.chapter("34,006 towns of the world, each on three nodes, acknowledged by two (W = 2), flushed to disk")?;
        let clients = self.clients()?;
        let began = self.env.clock.now();
        let count = self.each_town("writing", &clients, |client, id, value| async move {
            let written = client
                .put(
                    id,
                    value.to_owned().into(),
                    WriteOptions { timeout: Duration::from_secs(5), ..WriteOptions::default() },
                )
                .await;
            written.map(|_| ()).map_err(|error| Failure::of_write(&error))
        });
        let count = count.await?;
        let seconds = self.env.clock.now().since(began).as_secs_f64();
        let rate = count as f64 / seconds;
        self.check(count == 34_006, &format!("{count} acknowledged in {seconds:.1} s: {rate:.0} a second"))
    }

    async fn write_and_read(&mut self) -> Result<(), Failure> {
        self.chapter("A town, read at R = 1, 2 and 3, from any node")?;
        for r in 1..=3_usize {
            let answer = self.ask(Ask::get(r - 1, format!("{TOWN}?r={r}"))).await?;
            let (name, replicas) = (self.cluster.name(r - 1), answer.header("quorate-replicas"));
            let needed = format!("/{r}/3");
            let right = answer.status == 200 && answer.body.starts_with("Tokyo\t") && replicas.contains(&needed);
            let town = answer.body.replace('\t', " ");
            self.check(right, &format!("{} from {name}: {town:?}, answered/needed/N {replicas}", answer.status))?;
        }
        self.say("A write names how many must have it (W), and carries what it has seen, to supersede exactly that:")?;
        let seen = self.ask(Ask::get(0, TOWN)).await?.header("quorate-context");
        let put = Ask::put(1, format!("{TOWN}?w=2"), "Tokyo, 9733276 people").context(&seen);
        let answer = self.ask(put).await?;
        let replicas = answer.header("quorate-replicas");
        let right = answer.status == 204 && !answer.header("quorate-context").is_empty();
        self.check(right, &format!("{}: {replicas} acknowledged/asked/N", answer.status))?;
        let answer = self.ask(Ask::get(2, format!("{TOWN}?r=2"))).await?;
        self.check(answer.body == "Tokyo, 9733276 people", &format!("R + W > N: read at R = 2 as {:?}", answer.body))
    }

    async fn lose_a_node(&mut self) -> Result<(), Failure> {
        self.chapter("A node dies")?;
        let id = self.cluster.kill(2).unwrap_or_default();
        self.line(&format!("kill -9 {id}"))?;
        let status = self.wait_for_status("gamma is noticed to be down", |status| {
            status.members.iter().any(|member| member.name == "gamma" && member.state == "down")
        });
        let status = status.await?;
        self.line(&format!("quorate status --endpoint {}", self.cluster.client_url(0)))?;
        for line in screen(&status, false, self.paint).lines() {
            self.say(line)?;
        }
        let told = status.attention.iter().any(|item| item.code == "member_down");
        self.check(told, "the others noticed, and say so")
    }

    async fn go_on_without_it(&mut self) -> Result<(), Failure> {
        self.chapter("Life goes on: what needs two of three is there, what needs all three is refused at once")?;
        let seen = self.ask(Ask::get(0, TOWN)).await?.header("quorate-context");
        let put = Ask::put(0, format!("{TOWN}?w=2"), "Tokyo, written while gamma was down").context(&seen);
        let answer = self.ask(put).await?;
        let replicas = answer.header("quorate-replicas");
        self.check(answer.status == 204, &format!("{} at W = 2: {replicas} acknowledged/asked/N", answer.status))?;
        let answer = self.ask(Ask::put(1, format!("{TOWN}?w=3"), "never")).await?;
        let problem = answer.json();
        let right =
            answer.status == 503 && problem["code"] == "quorum_unavailable" && problem["outcome"] == "not_applied";
        let text = format!(
            "{} {} ({}): {}",
            answer.status,
            text(&problem["code"]),
            text(&problem["outcome"]),
            text(&problem["detail"])
        );
        self.check(right, &text)?;
        let answer = self.ask(Ask::get(1, format!("{TOWN}?r=2"))).await?;
        let right = answer.body == "Tokyo, written while gamma was down";
        self.check(right, &format!("refused means refused: it is still {:?}", answer.body))?;
        self.say("And everything acknowledged before is there, read at R = 2 from the two that are left:")?;
        let mut clients = self.clients()?;
        clients.truncate(2);
        let count = self.each_town("reading", &clients, |client, id, value| async move {
            let options = ReadOptions { timeout: Duration::from_secs(5), ..ReadOptions::default() };
            let found = client.get(id.clone(), options).await.map_err(|error| Failure::of_read(&error))?;
            let same =
                matches!(&found.siblings[..], [one] if one.value.as_ref().is_some_and(|found| found.bytes == value));
            let changed = format!("{id}") == TOWN;
            if same || changed {
                Ok(())
            } else {
                Err(Failure::new(Exit::Failed, format!("{id} is not what was written"), ""))
            }
        });
        let count = count.await?;
        self.check(count == 34_006, &format!("{count} of 34006 towns read, none lost"))
    }

    async fn conflict(&mut self) -> Result<(), Failure> {
        self.chapter("Two writers who did not see each other: both survive, until somebody who saw both settles it")?;
        let first = self.ask(Ask::put(0, "orders/42?w=2", "tea")).await?;
        self.check(first.status == 204, &format!("{} from alpha", first.status))?;
        let second = self.ask(Ask::put(1, "orders/42?w=2", "coffee")).await?;
        let siblings = second.header("quorate-siblings");
        self.check(
            second.status == 204 && siblings == "2",
            &format!("{} from beta: {siblings} siblings", second.status),
        )?;
        let answer = self.ask(Ask::get(0, "orders/42")).await?;
        let problem = answer.json();
        let mut values: Vec<String> =
            problem["siblings"].as_array().into_iter().flatten().map(|sibling| text(&sibling["value"])).collect();
        values.sort();
        let right = answer.status == 409 && problem["code"] == "siblings" && values == ["coffee", "tea"];
        self.check(right, &format!("{} {}: {}", answer.status, text(&problem["code"]), values.join(" and ")))?;
        self.say("The answer carries a context that covers both. Who sends it has seen both:")?;
        let put = Ask::put(1, "orders/42?w=2", "tea, then coffee").context(&text(&problem["context"]));
        let answer = self.ask(put).await?;
        self.check(answer.status == 204, &format!("{}: settled", answer.status))?;
        let answer = self.ask(Ask::get(0, "orders/42?r=2")).await?;
        let right = answer.status == 200 && answer.body == "tea, then coffee";
        self.check(right, &format!("{}: {:?}", answer.status, answer.body))
    }

    async fn come_back(&mut self) -> Result<(), Failure> {
        self.chapter("The node comes back, with the disk it died with, and is sent what it missed")?;
        let (alpha, beta) = (self.status(0).await?, self.status(1).await?);
        self.line(&format!("quorate hints --endpoint {}", self.cluster.client_url(0)))?;
        let waiting: u64 = alpha.hints.iter().chain(&beta.hints).map(|hints| hints.keys).sum();
        self.check(waiting > 0, &format!("alpha and beta noted what gamma missed: {waiting} keys"))?;
        self.cluster.start(2)?;
        let took = self.cluster.wait_ready(2, &self.http).await?;
        self.wait_for_status("gamma is up again", |status| status.members.iter().all(|member| member.state == "up"))
            .await?;
        self.check(true, &format!("gamma is ready {} ms after its start", took.as_millis()))?;
        self.line(&format!("quorate hints wait --endpoint {}", self.cluster.client_url(0)))?;
        self.wait_for_status("gamma has what it missed", |status| status.hints.is_empty()).await?;
        self.check(true, "no hints wait any more: it was sent to gamma, and nobody had to read it")?;
        self.say("A read of all three finds them alike, and has nothing to mend:")?;
        let answer = self.ask(Ask::get(2, format!("{TOWN}?r=3&explain=1")).envelope()).await?;
        let envelope = self.envelope(&answer)?;
        let explain = envelope.explain.unwrap_or_default();
        for line in explain_table(&explain, self.paint).lines() {
            self.say(line)?;
        }
        let newest = envelope.siblings.first().and_then(|sibling| sibling.value.clone()).unwrap_or_default();
        let right = envelope.siblings.len() == 1 && newest == "Tokyo, written while gamma was down";
        self.check(right, &format!("{}: {newest:?}", answer.status))?;
        let mut versions: Vec<&Vec<String>> = explain.replicas.iter().map(|replica| &replica.dots).collect();
        versions.dedup();
        let healed = explain.replicas.len() == 3 && versions.len() == 1 && explain.repaired.is_empty();
        let version = versions.first().map(|dots| dots.join(" + ")).unwrap_or_default();
        self.check(healed, &format!("alpha, beta and gamma: {version}"))?;
        self.say("(Reads heal what they find as well, and owners compare what they hold, once an hour.)")
    }

    // -- What the steps share ----------------------------------------------------------------------------------------

    /// One client a node, each trying its own node first.
    fn clients(&self) -> Result<Vec<Client>, Failure> {
        let nodes = self.cluster.len();
        let urls = |first: usize| (0..nodes).map(move |node| self.cluster.client_url((first + node) % nodes));
        let client = |first| Client::new(ClientConfig::new(urls(first)), self.env.clone());
        let clients: Result<Vec<Client>, _> = (0..nodes).map(client).collect();
        clients.map_err(|error| Failure::new(Exit::Failed, error.to_string(), ""))
    }

    /// Does something with every town, many side by side; counts.
    async fn each_town<F>(
        &self,
        verb: &'static str,
        clients: &[Client],
        does: impl Fn(Client, ObjectId, &'static str) -> F,
    ) -> Result<usize, Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let style = ProgressStyle::with_template("  {prefix} {bar:40} {pos}/{len}  {per_sec}  {elapsed}");
        let style = style.map_err(|error| Failure::new(Exit::Failed, error.to_string(), ""))?;
        let towns = CITIES.lines().skip(1).filter_map(|line| line.split_once('\t'));
        let bar = ProgressBar::new(towns.clone().count() as u64).with_style(style).with_prefix(verb);
        let bucket = Bucket::new("cities").map_err(|error| Failure::new(Exit::Failed, error.to_string(), ""))?;
        let jobs = towns.zip(clients.iter().cycle()).filter_map(|((key, value), client)| {
            let id = ObjectId::new(bucket.clone(), Key::new(key.as_bytes().to_vec()).ok()?);
            Some(does(client.clone(), id, value))
        });
        let mut ends = stream::iter(jobs).buffer_unordered(SIDE_BY_SIDE);
        let mut count = 0;
        while let Some(ended) = ends.next().await {
            ended?;
            count += 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(count)
    }

    /// Shows the curl line, then does what it does.
    async fn ask(&self, ask: Ask) -> Result<Answer, Failure> {
        let url = format!("{}/v1/kv/{}", self.cluster.client_url(ask.node), ask.path);
        let mut curl = "curl -i".to_owned();
        let mut request = self.http.request(ask.method.clone(), &url);
        if ask.method != Method::GET {
            curl += &format!(" -X {}", ask.method);
        }
        if let Some(context) = &ask.context {
            curl += &format!(" -H 'Quorate-Context: {context}'");
            request = request.header("quorate-context", context);
        }
        if ask.envelope {
            curl += &format!(" -H 'Accept: {ENVELOPE_TYPE}'");
            request = request.header("accept", ENVELOPE_TYPE);
        }
        if let Some(body) = &ask.body {
            curl += &format!(" --data '{body}'");
            request = request.body(body.clone());
        }
        self.line(&format!("{curl} '{url}'"))?;
        let failed = |error: reqwest::Error| Failure::new(Exit::Failed, format!("{url}: {error}"), "");
        let response = request.send().await.map_err(failed)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.text().await.map_err(failed)?;
        Ok(Answer { status, headers, body })
    }

    fn envelope(&self, answer: &Answer) -> Result<Envelope, Failure> {
        serde_json::from_str(&answer.body).map_err(|error| {
            Failure::new(Exit::Failed, format!("{} and no envelope ({error}): {}", answer.status, answer.body), "")
        })
    }

    async fn status(&self, node: usize) -> Result<Status, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("no status: {error}"), "");
        let url = format!("{}/admin/status", self.cluster.admin_url(node));
        let answer = self.http.get(url).send().await.map_err(|error| failed(&error))?;
        let body = answer.bytes().await.map_err(|error| failed(&error))?;
        serde_json::from_slice(&body).map_err(|error| failed(&error))
    }

    /// Asks alpha and beta until both say so.
    async fn wait_for_status(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Result<Status, Failure> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let began = self.env.clock.now();
        loop {
            let (alpha, beta) = (self.status(0).await?, self.status(1).await?);
            if holds(&alpha) && holds(&beta) {
                return Ok(alpha);
            }
            if self.env.clock.now().since(began) > PATIENCE {
                let shown = screen(&alpha, false, self.paint);
                return Err(Failure::new(Exit::Failed, format!("not within {PATIENCE:?}: {what}\n{shown}"), ""));
            }
            self.env.clock.sleep(Duration::from_millis(50)).await;
        }
    }

    fn chapter(&mut self, title: &str) -> Result<(), Failure> {
        self.chapter += 1;
        print(format!("\n{}\n", self.paint.bold(&format!("{}. {title}", self.chapter))).as_bytes())
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        print(format!("  {text}\n").as_bytes())
    }

    fn line(&self, command: &str) -> Result<(), Failure> {
        self.say(&self.paint.dim(&format!("$ {command}")))
    }

    /// Says what was seen, if it is what should be seen; else this is where the demo fails.
    fn check(&self, right: bool, seen: &str) -> Result<(), Failure> {
        if right {
            return self.say(&format!("{} {seen}", self.paint.green("ok")));
        }
        let text = format!("step {} did not show what it says: {seen}", self.chapter);
        Err(Failure::new(Exit::Failed, text, "please report it with the lines above"))
    }
}

/// A text in a JSON document; empty where there is none.
fn text(json: &Json) -> String {
    json.as_str().unwrap_or_default().to_owned()
}
