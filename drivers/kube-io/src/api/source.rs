//! An API server as a living source of objects.
//!
//! ```text
//!  one task for each watch: list, follow, parse --News (bounded channel)--> Store --> Batch
//!         └── WatchState, counts ──> Health
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_model::finding::{Finding, Severity};
use headwater_model::object::{HEADLESS_LABEL, SERVICE_PROXY_NAME_LABEL};
use headwater_model::origin::{Kind, ObjectKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::client::Pool;
use super::connect::ApiServer;
use super::failure::Failure;
use super::health::{Board, Health, WatchId};
use super::parse::Parser;
use super::resource::Scope;
use super::slim::Reader;
use super::store::{Event, Store};
use super::watch::{Message, News, Shared, Watch};
use crate::Batch;

/// A burst of changes is over when none came for this long.
const QUIET: Duration = Duration::from_millis(1);

/// A burst that does not end is told after this long.
const LONGEST_BURST: Duration = Duration::from_millis(10);

/// News that wait to be taken; when there are more, the watches wait, and with them the server.
const WAITING_NEWS: usize = 64;

/// What to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Kinds that are read as a whole.
    pub kinds: Vec<Kind>,
    /// Where objects of namespaced kinds are read; empty: in all namespaces.
    pub namespaces: Vec<String>,
    /// Kinds that are read as a whole in one namespace, whatever `namespaces` says.
    pub within: Vec<(Kind, String)>,
    /// Label selector over Namespaces: objects in others count as absent, but for those asked for by name.
    pub namespace_selector: Option<String>,
    /// Namespaces that the selector cannot leave out.
    pub always: Vec<String>,
    /// Fills [`Batch::observed`] for the kinds whose status somebody writes or reads.
    pub observe: bool,
    /// What is kept of the objects.
    pub reader: Reader,
}

impl Selection {
    /// What the service proxy of a node reads: Services, EndpointSlices and Nodes.
    pub fn of_node() -> Self {
        let kinds = vec![Kind::Service, Kind::EndpointSlice, Kind::Node];
        Self { kinds, reader: Reader::Node, ..Self::default() }
    }

    /// What it reads besides where it announces addresses of load balancers on layer 2; `namespace` is that of MetalLB's
    /// objects.
    pub fn of_announcing_node(namespace: &str) -> Self {
        let kinds = [Kind::IpAddressPool, Kind::L2Advertisement, Kind::BgpAdvertisement];
        let within = kinds.map(|kind| (kind, namespace.to_owned())).into();
        Self { within, reader: Reader::Announcer, ..Self::of_node() }
    }

    /// The same, and what it reads to tell routers of them by BGP. Secrets, which have the passwords of peers, as well.
    pub fn and_routers(mut self, namespace: &str) -> Self {
        let kinds = [Kind::BgpPeer, Kind::BfdProfile, Kind::Community, Kind::Secret];
        self.within.extend(kinds.map(|kind| (kind, namespace.to_owned())));
        self
    }

    /// Label selector of the watches of a whole kind, as kube-proxy's.
    fn labels(&self, kind: Kind) -> Option<Arc<str>> {
        let is_proxied = matches!(kind, Kind::Service | Kind::EndpointSlice);
        (matches!(self.reader, Reader::Node | Reader::Announcer) && is_proxied)
            .then(|| format!("!{HEADLESS_LABEL},!{SERVICE_PROXY_NAME_LABEL}").into())
    }
}

/// An API server that is watched. Dropping it ends the watches.
pub struct ApiServerSource {
    observe: bool,
    reader: Reader,
    pool: Pool,
    board: Board,
    shared: Arc<Shared>,
    news: mpsc::Receiver<Message>,
    teller: mpsc::Sender<Message>,
    next_id: WatchId,
    watches: BTreeMap<WatchId, Running>,
    wanted: BTreeMap<ObjectKey, WatchId>,
    /// Watches of whole kinds that did not tell their first list.
    unlisted: BTreeSet<WatchId>,
    /// Wanted objects without an answer.
    unanswered: BTreeSet<WatchId>,
    /// The last answer came since the last batch.
    all_answered: bool,
    store: Store,
    /// About watches as such.
    notes: BTreeMap<WatchId, Finding>,
    findings: Vec<Finding>,
    /// Something may be wrong that was not when the findings were gathered, or the other way round.
    findings_may_differ: bool,
    started: bool,
    /// When the burst that is being waited out is told anyway. It outlives a dropped `next`.
    burst_end: Option<Instant>,
}

struct Running {
    scope: Scope,
    /// Tells which namespaces count, not objects.
    selects: bool,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiServerSource {
    /// Begins to watch. Needs a tokio runtime with time and network.
    pub fn start(server: &ApiServer, selection: Selection) -> Self {
        let (teller, news) = mpsc::channel(WAITING_NEWS);
        let mut source = Self {
            observe: selection.observe,
            reader: selection.reader,
            pool: Pool::new(server.dialer().clone()),
            board: Board::new(),
            shared: Arc::new(Shared::new()),
            news,
            teller,
            next_id: 0,
            watches: BTreeMap::new(),
            wanted: BTreeMap::new(),
            unlisted: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            all_answered: false,
            store: Store::default(),
            notes: BTreeMap::new(),
            findings: Vec::new(),
            findings_may_differ: false,
            started: false,
            burst_end: None,
        };
        let kinds: BTreeSet<Kind> = selection.kinds.iter().copied().collect();
        let namespaces: BTreeSet<String> = selection.namespaces.iter().cloned().collect();
        if let Some(labels) = &selection.namespace_selector {
            source.store.keep(selection.always.iter().map(|name| Arc::from(&**name)));
            source.store.select(BTreeSet::new());
            let scope = Scope { labels: Some(labels.as_str().into()), ..Scope::whole(Kind::Namespace, "") };
            let id = source.watch(scope, true);
            source.unlisted.insert(id);
        }
        for (kind, namespace) in &selection.within {
            let id = source.watch(Scope::whole(*kind, namespace), false);
            source.unlisted.insert(id);
        }
        for kind in kinds {
            let everywhere = namespaces.is_empty() || !kind.is_namespaced();
            let scopes: Vec<Scope> = match everywhere {
                true => vec![Scope::whole(kind, "")],
                false => namespaces.iter().map(|namespace| Scope::whole(kind, namespace)).collect(),
            };
            for scope in scopes {
                let scope = Scope { labels: selection.labels(kind), ..scope };
                let id = source.watch(scope, false);
                source.unlisted.insert(id);
            }
        }
        source
    }

    /// Waits for the next difference. The first batch comes when everything that was selected was listed once. A batch
    /// without a change comes when the last of the wanted objects was answered for, so that `pending` is seen to end.
    ///
    /// Cancel safe: a dropped future loses no change.
    pub async fn next(&mut self) -> Batch {
        loop {
            for _ in 0..WAITING_NEWS {
                match self.news.try_recv() {
                    Ok(message) => self.take(message),
                    Err(_) => break,
                }
            }
            if !self.has_something_to_tell() {
                self.burst_end = None;
                let message = self.news.recv().await.expect("the source holds a sender itself");
                self.take(message);
                continue;
            }
            let now = Instant::now();
            let end = *self.burst_end.get_or_insert(now + LONGEST_BURST);
            if now < end
                && let Ok(message) = timeout_at(end.min(now + QUIET), self.news.recv()).await
            {
                self.take(message.expect("the source holds a sender itself"));
                continue;
            }
            self.burst_end = None;
            if let Some(batch) = self.batch() {
                return batch;
            }
        }
    }

    /// Names the objects to read each by its name (Secrets, ConfigMaps); replaces the set before. Those no longer named
    /// count as gone. Objects of kinds that are read as a whole need no naming and are passed over.
    pub fn want(&mut self, named: &BTreeSet<ObjectKey>) {
        let dropped: Vec<ObjectKey> = self.wanted.keys().filter(|key| !named.contains(*key)).cloned().collect();
        for key in dropped {
            let Some(running) = self.wanted.remove(&key).and_then(|id| {
                self.unanswered.remove(&id);
                self.findings_may_differ |= self.notes.remove(&id).is_some();
                self.watches.remove(&id)
            }) else {
                continue;
            };
            self.store.clear(&running.scope);
            self.findings_may_differ = true;
        }
        for key in named {
            if self.wanted.contains_key(key) || self.watches.values().any(|running| running.reads_whole(key)) {
                continue;
            }
            let id = self.watch(Scope::one(key), false);
            self.wanted.insert(key.clone(), id);
            self.unanswered.insert(id);
        }
    }

    /// Wanted objects for which the server did not answer yet: neither with the object, nor that there is none.
    pub fn pending(&self) -> usize {
        self.unanswered.len()
    }

    /// How the watches do.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.board.subscribe()
    }

    fn watch(&mut self, scope: Scope, selects: bool) -> WatchId {
        let id = self.next_id;
        self.next_id += 1;
        let watch = Watch::new(
            (id, scope.clone()),
            Parser::new(scope.kind, self.observe, self.reader),
            self.pool.seat(),
            self.board.add(id, &scope),
            self.teller.clone(),
            self.shared.clone(),
        );
        self.watches.insert(id, Running { scope, selects, task: tokio::spawn(watch.run()) });
        id
    }

    /// Takes what a watch tells. What a watch told before it ended is passed over.
    fn take(&mut self, Message { watch: id, news }: Message) {
        let Some(running) = self.watches.get(&id) else { return };
        let note = match news {
            News::Listed(items) if running.selects => {
                self.store.select(items.into_iter().map(|item| item.key.id.name).collect());
                None
            }
            News::Changed(events) if running.selects => {
                let mut selected = self.store.selected();
                for event in events {
                    match event {
                        Event::Set(item) => selected.insert(item.key.id.name),
                        Event::Gone(key) => selected.remove(&key.id.name),
                    };
                }
                self.store.select(selected);
                None
            }
            News::Listed(items) => {
                self.store.list(&running.scope, items);
                None
            }
            News::Changed(events) => {
                for event in events {
                    self.store.event(&running.scope, event);
                }
                None
            }
            News::NotInstalled => {
                self.store.clear(&running.scope);
                Some(not_installed(&running.scope))
            }
            News::Forbidden(failure) => Some(forbidden(&running.scope, &failure)),
        };
        match note {
            Some(note) => drop(self.notes.insert(id, note)),
            None => drop(self.notes.remove(&id)),
        }
        self.findings_may_differ = true;
        self.unlisted.remove(&id);
        self.all_answered |= self.unanswered.remove(&id) && self.unanswered.is_empty();
    }

    fn has_something_to_tell(&self) -> bool {
        let news = self.store.is_touched() || self.findings_may_differ || self.all_answered || !self.started;
        self.unlisted.is_empty() && news
    }

    fn batch(&mut self) -> Option<Batch> {
        let (changes, observed) = self.store.take();
        let mut findings_differ = false;
        if std::mem::take(&mut self.findings_may_differ) {
            let findings: Vec<Finding> = self.notes.values().cloned().chain(self.store.findings()).collect();
            findings_differ = findings != self.findings;
            self.findings = findings;
        }
        let first = !std::mem::replace(&mut self.started, true);
        if first {
            self.board.started();
        }
        let answered = std::mem::take(&mut self.all_answered);
        (first || answered || findings_differ || !changes.is_empty() || !observed.is_empty()).then(|| Batch {
            changes,
            findings: self.findings.clone(),
            observed,
        })
    }
}

impl Running {
    fn reads_whole(&self, key: &ObjectKey) -> bool {
        self.scope.name.is_none() && !self.selects && self.scope.covers(key)
    }
}

fn not_installed(scope: &Scope) -> Finding {
    Finding {
        severity: Severity::Info,
        reason: "NotInstalled",
        object: None,
        location: None,
        field: String::new(),
        message: format!("the API server does not know {} ({})", scope.kind, scope.kind.api_version()),
        mend: "install its CustomResourceDefinition, if you want to use it".to_owned(),
    }
}

fn forbidden(scope: &Scope, failure: &Failure) -> Finding {
    let name = scope.name.clone().unwrap_or_default();
    let key = ObjectKey::new(scope.kind, scope.namespace.clone(), name);
    let message = format!("the API server does not let us read it: {failure}");
    Finding::error("Forbidden", key, message).mend(failure.mend(scope))
}
