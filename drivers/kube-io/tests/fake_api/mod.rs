//! An API server of a few hundred lines: lists, pages, watches, bookmarks, and whatever may go wrong with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use headwater_kube_io::{Access, ApiServer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) const INGRESSES: &str = "/apis/networking.k8s.io/v1/ingresses";
pub(crate) const SETTINGS: &str = "/apis/headwater.dev/v1alpha1/gatewaysettings";
pub(crate) const SECRETS: &str = "/api/v1/secrets";
pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";

/// What goes wrong with the next request that it fits.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Status code, more header lines, body.
    Answer(u16, &'static str, String),
    /// 200 and this line of a stream, or body of a list; then the connection breaks.
    Garbage(&'static str),
    /// A streamed list breaks off after so many objects.
    CutListAfter(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Without namespace: the collection.
    pub(crate) path: String,
    pub(crate) namespace: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) authorization: String,
}

#[derive(Default)]
pub(crate) struct State {
    version: u64,
    objects: BTreeMap<(String, String, String), Value>,
    log: Vec<(u64, String, &'static str, Value)>,
    /// Changes up to here are forgotten.
    compacted: u64,
    pub(crate) streams_lists: bool,
    pub(crate) not_installed: BTreeSet<&'static str>,
    /// Collections that nobody may read, or `collection name`.
    pub(crate) forbidden: BTreeSet<String>,
    pub(crate) faults: VecDeque<(String, Fault)>,
    /// The only token that counts.
    pub(crate) token: Option<String>,
    pub(crate) asked: Vec<Asked>,
    /// Connections of before are broken.
    epoch: u64,
    /// Nobody is answered.
    pub(crate) down: bool,
}

#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    news: watch::Sender<u64>,
    dir: Arc<tempfile::TempDir>,
}

impl FakeApi {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fake = Self {
            state: Arc::new(Mutex::new(State { version: 1, streams_lists: true, ..State::default() })),
            news: watch::Sender::new(0),
            dir: Arc::new(dir),
        };
        std::fs::write(fake.token_file(), "first").unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "u", "user": { "tokenFile": fake.token_file() } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u", "namespace": "home" } }],
        });
        std::fs::write(fake.dir.path().join("config"), kubeconfig.to_string()).unwrap();
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(socket).await });
            }
        });
        fake
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    pub(crate) async fn connect(&self) -> ApiServer {
        let access = Access { kubeconfig: Some(self.dir.path().join("config")), context: None };
        ApiServer::connect(&access).await.unwrap()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    /// Creates or replaces `namespace/name` with these fields beside the metadata.
    pub(crate) fn put(&self, collection: &str, namespace: &str, name: &str, fields: Value) {
        self.put_quietly(collection, namespace, name, fields);
        self.tell();
    }

    /// The same, but no watch hears of it before the next change.
    pub(crate) fn put_quietly(&self, collection: &str, namespace: &str, name: &str, mut fields: Value) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let labels = fields["labels"].take();
        fields.as_object_mut().unwrap().remove("labels");
        fields["metadata"] = json!({ "name": name, "resourceVersion": version.to_string(), "labels": labels });
        if !namespace.is_empty() {
            fields["metadata"]["namespace"] = json!(namespace);
        }
        let key = (collection.to_owned(), namespace.to_owned(), name.to_owned());
        let event = if state.objects.insert(key, fields.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        state.log.push((version, collection.to_owned(), event, fields));
    }

    pub(crate) fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let key = (collection.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = state.objects.remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.log.push((version, collection.to_owned(), "DELETED", object));
        drop(state);
        self.tell();
    }

    /// Forgets every change: who wants to follow on from before has to list.
    pub(crate) fn compact(&self) {
        let mut state = self.state();
        state.version += 1;
        state.compacted = state.version;
        state.log.clear();
        drop(state);
        self.tell();
    }

    /// The next request for the collection goes wrong.
    pub(crate) fn fault(&self, collection: &str, fault: Fault) {
        self.state().faults.push_back((collection.to_owned(), fault));
    }

    /// Breaks every connection.
    pub(crate) fn cut(&self) {
        self.state().epoch += 1;
        self.tell();
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.state().down = down;
        self.cut();
    }

    pub(crate) fn asked(&self, fits: impl Fn(&Asked) -> bool) -> usize {
        self.state().asked.iter().filter(|asked| fits(asked)).count()
    }

    /// Waits until such a request was made.
    pub(crate) async fn was_asked(&self, what: &str, fits: impl Fn(&Asked) -> bool) {
        let mut news = self.news.subscribe();
        let seen = async {
            while self.asked(&fits) == 0 {
                news.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap_or_else(|_| panic!("never asked: {what}"));
    }

    async fn serve(&self, mut socket: TcpStream) -> Option<()> {
        let epoch = self.state().epoch;
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    break end + 4;
                }
                if socket.read_buf(&mut buffer).await.ok()? == 0 {
                    return None;
                }
            };
            let head: Vec<u8> = buffer.drain(..end).collect();
            let asked = parse(std::str::from_utf8(&head).unwrap());
            let answer = {
                let mut state = self.state();
                if state.down || state.epoch != epoch {
                    return None;
                }
                state.asked.push(asked.clone());
                state.answer(&asked)
            };
            self.tell();
            match answer {
                Answer::Whole(code, headers, body) => {
                    let head = format!("HTTP/1.1 {code} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
                    socket.write_all(head.as_bytes()).await.ok()?;
                    socket.write_all(body.as_bytes()).await.ok()?;
                }
                Answer::Garbage(text) => {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                    socket.write_all(head.as_bytes()).await.ok()?;
                }
                Answer::Stream { from, initial, cut } => {
                    socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
                    return self.stream(socket, &asked, epoch, from, initial, cut).await;
                }
            }
        }
    }

    async fn stream(
        &self,
        mut socket: TcpStream,
        asked: &Asked,
        epoch: u64,
        mut from: u64,
        initial: Vec<Value>,
        cut: bool,
    ) -> Option<()> {
        let mut news = self.news.subscribe();
        let mut lines = initial;
        loop {
            for line in lines.drain(..) {
                let line = format!("{line}\n");
                // In two pieces, as they may well arrive.
                let (head, tail) = line.as_bytes().split_at(line.len() / 2);
                for piece in [head, tail] {
                    socket.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.ok()?;
                    socket.write_all(piece).await.ok()?;
                    socket.write_all(b"\r\n").await.ok()?;
                }
            }
            if cut {
                return None;
            }
            {
                let state = self.state();
                if state.epoch != epoch {
                    return None;
                }
                if state.compacted > from {
                    let gone = json!({ "kind": "Status", "code": 410, "message": "too old resource version" });
                    lines.push(json!({ "type": "ERROR", "object": gone }));
                } else {
                    for (_, _, event, object) in
                        state.log.iter().filter(|entry| entry.0 > from && asked.fits(&entry.1, &entry.3))
                    {
                        lines.push(json!({ "type": event, "object": object }));
                    }
                }
                from = from.max(state.version);
            }
            if lines.is_empty() {
                news.changed().await.ok()?;
            }
        }
    }
}

enum Answer {
    Whole(u16, &'static str, String),
    Garbage(&'static str),
    Stream { from: u64, initial: Vec<Value>, cut: bool },
}

fn status(code: u16, message: &str) -> Answer {
    let body = json!({ "kind": "Status", "status": "Failure", "code": code, "message": message });
    Answer::Whole(code, "", body.to_string())
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Answer {
        if self.token.as_ref().is_some_and(|token| asked.authorization != format!("Bearer {token}")) {
            return status(401, "Unauthorized");
        }
        if self.not_installed.contains(&*asked.path) {
            return Answer::Whole(404, "", "404 page not found\n".to_owned());
        }
        let name = asked.name().unwrap_or_default();
        if self.forbidden.contains(&asked.path) || self.forbidden.contains(&format!("{} {name}", asked.path)) {
            return status(403, "User \"u\" cannot list resource");
        }
        let mut cut_after = None;
        if let Some(at) = self.faults.iter().position(|(collection, _)| *collection == asked.path) {
            match self.faults.remove(at).unwrap().1 {
                Fault::Answer(code, headers, body) => return Answer::Whole(code, headers, body),
                Fault::Garbage(text) => return Answer::Garbage(text),
                Fault::CutListAfter(objects) => cut_after = Some(objects),
            }
        }
        let objects = self.objects.iter().filter(|(key, object)| asked.fits(&key.0, object)).map(|(_, object)| object);
        let parameter = |name: &str| asked.query.get(name).map(String::as_str);
        if parameter("watch").is_none() {
            let limit: usize = parameter("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
            let from: usize =
                parameter("continue").map_or(0, |token| token.strip_prefix("a+/=").unwrap().parse().unwrap());
            let items: Vec<&Value> = objects.skip(from).take(limit).collect();
            let next = if items.len() == limit { format!("a+/={}", from + limit) } else { String::new() };
            let metadata = json!({ "resourceVersion": self.version.to_string(), "continue": next });
            return Answer::Whole(200, "", json!({ "kind": "List", "metadata": metadata, "items": items }).to_string());
        }
        let Some("true") = parameter("sendInitialEvents") else {
            let from: u64 = parameter("resourceVersion").unwrap().parse().unwrap();
            return Answer::Stream { from, initial: Vec::new(), cut: false };
        };
        if !self.streams_lists {
            return status(422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch");
        }
        let mut initial: Vec<Value> = objects.map(|object| json!({ "type": "ADDED", "object": object })).collect();
        match cut_after {
            Some(objects) => initial.truncate(objects),
            None => initial.push(json!({ "type": "BOOKMARK", "object": { "kind": "X", "metadata": {
                "resourceVersion": self.version.to_string(), "annotations": { "k8s.io/initial-events-end": "true" } } } })),
        }
        Answer::Stream { from: self.version, initial, cut: cut_after.is_some() }
    }
}

impl Asked {
    pub(crate) fn name(&self) -> Option<&str> {
        self.query.get("fieldSelector")?.strip_prefix("metadata.name=")
    }

    fn fits(&self, collection: &str, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let selector = self.query.get("labelSelector").map(String::as_str).unwrap_or_default();
        let is_selected = |part: &str| match (part.strip_prefix('!'), part.split_once('=')) {
            (Some(absent), _) => metadata["labels"].get(absent).is_none(),
            (None, Some((name, value))) => metadata["labels"][name] == value,
            (None, None) => part.is_empty(),
        };
        self.path == collection
            && (self.namespace.is_empty() || metadata["namespace"] == self.namespace)
            && self.name().is_none_or(|name| metadata["name"] == name)
            && selector.split(',').all(is_selected)
    }
}

fn parse(head: &str) -> Asked {
    let target = head.split(' ').nth(1).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, namespace) = match path.split_once("/namespaces/") {
        Some((root, rest)) => {
            let (namespace, plural) = rest.split_once('/').unwrap();
            (format!("{root}/{plural}"), namespace.to_owned())
        }
        None => (path.to_owned(), String::new()),
    };
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let query =
        query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), decode(value)));
    Asked { path, namespace, query: query.collect(), authorization: header("authorization").unwrap_or_default() }
}

fn decode(value: &str) -> String {
    let mut bytes = value.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).unwrap()
}
