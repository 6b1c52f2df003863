//! One watch: list, then follow, for as long as somebody wants it.
//!
//! A stream that ends is followed on from where it ended; a version that the server forgot (410) leads to a new list.
//! Kubernetes API concepts, "Efficient detection of changes"; KEP-3157 (streaming lists).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headwater_model::origin::ObjectKey;
use http::header::ACCEPT;
use http::{Request, Response, StatusCode};
use kube::client::Body;
use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};

use super::backoff::Backoff;
use super::body::{Lines, read_whole};
use super::client::Seat;
use super::failure::{Cause, Failure};
use super::health::{Reporter, WatchId};
use super::parse::{Item, Parser};
use super::resource::{Scope, push_parameter};
use super::store::Event;

/// Objects asked for at once, where the server cannot stream lists.
const PAGE: usize = 500;

/// Largest page; a larger one is asked for in smaller pages.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// Largest answer that explains a failure.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A list of which nothing came for this long is given up.
const LIST_STALL: Duration = Duration::from_secs(30);

/// How long the server is asked to keep a stream open; more at random, so that streams do not end together.
const STREAM_SECONDS: u64 = 600;

/// How long a stream may stay open past the time that was asked for.
const STREAM_SLACK: Duration = Duration::from_secs(30);

/// A stream that ends without a word within this time is a failure.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A stream that breaks after this time is followed on at once: connections do not last for ever, and whether the
/// server is there is for the next request to say.
const LASTED: Duration = Duration::from_secs(5);

/// A kind that was there and is not found for this long was removed: a server that begins may not know it yet.
const REMOVED_AFTER: Duration = Duration::from_secs(2);

/// Longest pauses between tries: short enough to catch up within seconds after the server is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE_NOT_FOUND: Duration = Duration::from_secs(10);
const LONGEST_PAUSE_FORBIDDEN: Duration = Duration::from_secs(10);
const LONGEST_PAUSE_FORBIDDEN_OBJECT: Duration = Duration::from_secs(30);

/// What a watch tells its source.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) watch: WatchId,
    pub(crate) news: News,
}

#[derive(Debug)]
pub(crate) enum News {
    /// The whole list; it replaces what was told before.
    Listed(Vec<Item>),
    Changed(Vec<Event>),
    /// The server does not know the kind.
    NotInstalled,
    /// The server does not let us read it; what was told before counts.
    Forbidden(Failure),
}

/// What the watches of a source share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Whether the server streams lists, as far as is known.
    streams_lists: AtomicBool,
    /// Limits how many single objects are asked for at a time.
    lists: Semaphore,
}

impl Shared {
    /// Single objects asked for at a time.
    const LISTS: usize = 32;

    pub(crate) fn new() -> Self {
        Self { streams_lists: AtomicBool::new(true), lists: Semaphore::new(Self::LISTS) }
    }
}

/// A watch; dropping the future of [`Watch::run`] ends it.
pub(crate) struct Watch {
    id: WatchId,
    scope: Scope,
    parser: Parser,
    seat: Seat,
    reporter: Reporter,
    out: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    /// Where to follow on; `None`: list.
    version: Option<Box<str>>,
    page: usize,
    /// The last streamed list did not arrive: the next is asked for in pages.
    in_pages: bool,
    /// Since when the kind that was there is not.
    not_found: Option<Instant>,
}

/// Why a watch did not go on.
enum End {
    Failure(Failure),
    /// Nobody listens.
    SourceGone,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// One line of a stream.
enum Line {
    Event(Event, Box<str>),
    Bookmark { version: Box<str>, ends_list: bool },
}

impl Watch {
    pub(crate) fn new(
        (id, scope): (WatchId, Scope),
        parser: Parser,
        seat: Seat,
        reporter: Reporter,
        out: mpsc::Sender<Message>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            id,
            scope,
            parser,
            seat,
            reporter,
            out,
            shared,
            version: None,
            page: PAGE,
            in_pages: false,
            not_found: None,
        }
    }

    /// Runs until the source is gone.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let ended = match self.version.clone() {
                Some(version) => self.watch_from(&version).await,
                None => self.list().await,
            };
            self.seat.stream_ended();
            let failure = match ended {
                Ok(()) => {
                    self.not_found = None;
                    continue;
                }
                Err(End::SourceGone) => return,
                Err(End::Failure(failure)) => failure,
            };
            tracing::debug!(resource = self.scope.describe(), cause = ?failure.cause, error = %failure, "a watch ended");
            let Ok(longest) = self.failed(&failure).await else { return };
            backoff.wait(longest, failure.retry_after).await;
        }
    }

    /// What follows from a failure; the longest pause before the next try.
    async fn failed(&mut self, failure: &Failure) -> Result<Duration, End> {
        if failure.cause != Cause::NotFound {
            self.not_found = None;
        }
        match failure.cause {
            Cause::Expired => {
                self.version = None;
                self.reporter.listing();
                Ok(LONGEST_PAUSE)
            }
            Cause::NotFound if self.scope.is_optional() => {
                self.version = None;
                let since = *self.not_found.get_or_insert_with(Instant::now);
                if self.reporter.was_listed() && since.elapsed() < REMOVED_AFTER {
                    return Ok(AT_ONCE);
                }
                if !self.reporter.is_not_installed() {
                    self.tell(News::NotInstalled).await?;
                }
                self.reporter.not_installed();
                Ok(LONGEST_PAUSE_NOT_FOUND)
            }
            Cause::Forbidden if self.scope.name.is_some() => {
                // The list that ends this takes the finding back.
                self.version = None;
                self.tell(News::Forbidden(failure.clone())).await?;
                self.reporter.failed(failure);
                Ok(LONGEST_PAUSE_FORBIDDEN_OBJECT)
            }
            Cause::Rejected => {
                self.version = None;
                self.reporter.failed(failure);
                Ok(LONGEST_PAUSE)
            }
            cause => {
                self.reporter.failed(failure);
                Ok(if cause == Cause::Forbidden { LONGEST_PAUSE_FORBIDDEN } else { LONGEST_PAUSE })
            }
        }
    }

    async fn list(&mut self) -> Result<(), End> {
        let shared = self.shared.clone();
        let permit = match self.scope.name {
            // Those who hold a permit may wait for us.
            Some(_) if !self.seat.leads() => shared.lists.acquire().await.ok(),
            _ => None,
        };
        if std::mem::take(&mut self.in_pages) || !shared.streams_lists.load(Ordering::Relaxed) {
            return self.list_in_pages().await;
        }
        let mut uri = self.stream_uri();
        let ends = self.ask_for_time(&mut uri);
        uri.push_str("sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
        match self.get(uri).await {
            Ok(response) => self.follow(response, Some(Initial { items: BTreeMap::new(), permit }), ends).await,
            Err(failure) if failure.cause == Cause::Rejected => {
                tracing::debug!(error = %failure, "the API server does not stream lists; they are read in pages");
                shared.streams_lists.store(false, Ordering::Relaxed);
                self.list_in_pages().await
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn list_in_pages(&mut self) -> Result<(), End> {
        #[derive(Deserialize)]
        struct Page<'a> {
            #[serde(borrow)]
            metadata: PageMeta<'a>,
            #[serde(borrow)]
            items: Option<Vec<&'a RawValue>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct PageMeta<'a> {
            #[serde(borrow)]
            resource_version: Cow<'a, str>,
            #[serde(borrow)]
            r#continue: Option<Cow<'a, str>>,
        }
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let mut uri = self.scope.uri();
            push_parameter(&mut uri, "limit", &self.page.to_string());
            if !token.is_empty() {
                push_parameter(&mut uri, "continue", &token);
            }
            let response = self.get(uri).await?;
            let Some(body) = read_whole(response.into_body(), MAX_PAGE_BYTES, LIST_STALL).await? else {
                let message = format!("a page of {} {} is larger than 64 MiB", self.page, self.scope.describe());
                self.page = (self.page / 8).max(1);
                return Err(Failure::new(Cause::Garbled, message).into());
            };
            let text = std::str::from_utf8(&body).map_err(|error| self.garbled(&error))?;
            let page: Page<'_> = serde_json::from_str(text).map_err(|error| self.garbled(&error))?;
            for raw in page.items.unwrap_or_default() {
                items.push(self.parser.item(raw.get()).map_err(|error| garbled(&self.scope, &error))?);
            }
            token = page.metadata.r#continue.unwrap_or_default().into_owned();
            if token.is_empty() {
                let version = page.metadata.resource_version.into();
                return self.listed(items, version).await;
            }
        }
    }

    async fn listed(&mut self, items: Vec<Item>, version: Box<str>) -> Result<(), End> {
        self.tell(News::Listed(items)).await?;
        self.version = Some(version);
        self.reporter.listed();
        Ok(())
    }

    async fn watch_from(&mut self, version: &str) -> Result<(), End> {
        let mut uri = self.stream_uri();
        let ends = self.ask_for_time(&mut uri);
        push_parameter(&mut uri, "resourceVersion", version);
        let response = self.get(uri).await?;
        self.reporter.watching();
        self.follow(response, None, ends).await
    }

    fn stream_uri(&self) -> String {
        let mut uri = self.scope.uri();
        uri.push_str("watch=true&allowWatchBookmarks=true&");
        uri
    }

    /// Asks the server to end the stream after a while; gives back when we end it ourselves.
    fn ask_for_time(&self, uri: &mut String) -> Instant {
        let seconds = STREAM_SECONDS + RandomState::new().hash_one(self.id) % (STREAM_SECONDS / 2);
        push_parameter(uri, "timeoutSeconds", &seconds.to_string());
        Instant::now() + Duration::from_secs(seconds) + STREAM_SLACK
    }

    /// Follows a stream to its end. Where it begins with a list, `initial` gathers that.
    async fn follow(
        &mut self,
        response: Response<Body>,
        mut initial: Option<Initial<'_>>,
        ends: Instant,
    ) -> Result<(), End> {
        // Until the list is whole.
        self.in_pages = initial.is_some();
        let mut lines = Lines::new(response.into_body());
        let (began, mut quiet) = (Instant::now(), true);
        loop {
            let patience = if initial.is_some() { Instant::now() + LIST_STALL } else { ends };
            let filled = match timeout_at(patience, lines.fill()).await {
                Ok(filled) => filled,
                Err(_) if initial.is_none() => return Ok(()),
                Err(_) => Err(Failure::new(Cause::Unreachable, format!("nothing came of a list for {LIST_STALL:?}"))),
            };
            let (mut events, mut failure) = (Vec::new(), filled.as_ref().err().cloned());
            while let Some(line) = lines.next_line() {
                quiet = false;
                match self.line(&line) {
                    Ok(Line::Event(Event::Set(item), _)) if initial.is_some() => {
                        initial.as_mut().map(|list| list.items.insert(item.key.clone(), item));
                    }
                    Ok(Line::Event(Event::Gone(key), _)) if initial.is_some() => {
                        initial.as_mut().map(|list| list.items.remove(&key));
                    }
                    Ok(Line::Event(event, version)) => {
                        events.push(event);
                        self.version = Some(version);
                    }
                    Ok(Line::Bookmark { version, ends_list }) => match initial.take_if(|_| ends_list) {
                        Some(list) => {
                            self.in_pages = false;
                            self.listed(list.items.into_values().collect(), version).await?;
                        }
                        None if initial.is_none() => self.version = Some(version),
                        None => {}
                    },
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            if !events.is_empty() {
                self.reporter.events(events.len());
                self.tell(News::Changed(events)).await?;
            }
            match (failure, filled) {
                (Some(failure), Err(_)) if failure.cause == Cause::Unreachable && began.elapsed() > LASTED => {
                    return Ok(());
                }
                (Some(failure), _) => return Err(failure.into()),
                (None, Ok(false)) if initial.is_some() || (quiet && began.elapsed() < AT_ONCE) => {
                    return Err(Failure::new(Cause::Unreachable, "the stream ended at once").into());
                }
                (None, Ok(false)) => return Ok(()),
                (None, _) => {}
            }
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<Line, Failure> {
        #[derive(Deserialize)]
        struct Form<'a> {
            #[serde(borrow, rename = "type")]
            event: Cow<'a, str>,
            #[serde(borrow)]
            object: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Bookmark<'a> {
            #[serde(borrow)]
            metadata: BookmarkMeta<'a>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct BookmarkMeta<'a> {
            #[serde(borrow)]
            resource_version: Cow<'a, str>,
            annotations: Option<BTreeMap<String, String>>,
        }
        let text = std::str::from_utf8(line).map_err(|error| self.garbled(&error))?;
        let Form { event, object } = serde_json::from_str(text).map_err(|error| self.garbled(&error))?;
        match &*event {
            "ADDED" | "MODIFIED" | "DELETED" => {
                let item = self.parser.item(object.get()).map_err(|error| garbled(&self.scope, &error))?;
                let version = item.version.clone();
                let event = if event == "DELETED" { Event::Gone(item.key) } else { Event::Set(item) };
                Ok(Line::Event(event, version))
            }
            "BOOKMARK" => {
                let Bookmark { metadata } = serde_json::from_str(object.get()).map_err(|error| self.garbled(&error))?;
                let ends_list = |annotations: &BTreeMap<String, String>| {
                    annotations.get("k8s.io/initial-events-end").is_some_and(|value| value == "true")
                };
                Ok(Line::Bookmark {
                    version: metadata.resource_version.into(),
                    ends_list: metadata.annotations.as_ref().is_some_and(ends_list),
                })
            }
            "ERROR" => match serde_json::from_str::<Status>(object.get()) {
                Ok(status) => Err(Failure::status(status)),
                Err(error) => Err(self.garbled(&error)),
            },
            other => Err(Failure::new(Cause::Garbled, format!("an event of unknown type {other:?}"))),
        }
    }

    async fn get(&mut self, uri: String) -> Result<Response<Body>, Failure> {
        self.reporter.request();
        let request = Request::get(uri.trim_end_matches('&')).header(ACCEPT, "application/json").body(Body::empty());
        let request = request.map_err(|error| Failure::new(Cause::Rejected, error.to_string()))?;
        let response = self.seat.send(request).await.map_err(|error| Failure::unreachable(&error))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        // What explains it may be cut off, and is only for people.
        let body = read_whole(body, MAX_ERROR_BYTES, LIST_STALL).await.ok().flatten().unwrap_or_default();
        Err(Failure::answered(head.status, &head.headers, &body))
    }

    async fn tell(&self, news: News) -> Result<(), End> {
        self.out.send(Message { watch: self.id, news }).await.map_err(|_| End::SourceGone)
    }

    fn garbled(&self, error: &dyn std::error::Error) -> Failure {
        garbled(&self.scope, error)
    }
}

/// A list on its way.
struct Initial<'a> {
    items: BTreeMap<ObjectKey, Item>,
    /// Given back with the list.
    #[expect(dead_code, reason = "held for its drop")]
    permit: Option<SemaphorePermit<'a>>,
}

fn garbled(scope: &Scope, error: &dyn std::error::Error) -> Failure {
    // The error names no values: what came may be a secret.
    let kind = match error.to_string() {
        text if scope.kind != headwater_model::origin::Kind::Secret => text,
        _ => "values of Secrets are not shown".to_owned(),
    };
    Failure::new(Cause::Garbled, format!("what came for {} is not what an API server sends: {kind}", scope.describe()))
}
