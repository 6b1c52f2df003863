//! From a snapshot to what workers run: compiled routes, TLS, resolved endpoints, sockets.
//!
//! Whatever has not changed since the last snapshot is the same `Arc` as before, here and in the workers.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use headwater_model::gateway::{
    Endpoint, EndpointAddress, GatewaySnapshot, Listener, Pool, Protocol, RouteTable, TlsTermination, UpstreamProtocol,
    UpstreamTls,
};
use headwater_model::nat::Transport;
use headwater_net_io::datagram::bind_shared;
use headwater_net_io::listen::{listen, listen_shared};
use headwater_net_io::tls::client::ClientTls;
use headwater_net_io::tls::server::ServerTls;
use headwater_route_match::CompiledTable;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::dns::Names;
use crate::transparent;

/// Connections the kernel completes before we accept them, for each socket.
const BACKLOG: u32 = 4096;

/// One listener, ready to serve.
pub(crate) struct CompiledListener {
    pub(crate) snapshot: Arc<Listener>,
    pub(crate) table: Arc<CompiledTable>,
    pub(crate) tls: Option<Arc<ServerTls>>,
}

/// One pool, ready to be connected to.
#[derive(Clone)]
pub(crate) struct CompiledPool {
    /// With addresses only: names are resolved.
    pub(crate) pool: Arc<Pool>,
    pub(crate) tls: Option<Arc<ClientTls>>,
}

/// A change for a worker to make at once.
pub(crate) struct Update {
    /// Every listener that is open; those missing are to be drained.
    pub(crate) listeners: Vec<OpenListener>,
    pub(crate) pools: Arc<Vec<Option<CompiledPool>>>,
    pub(crate) done: oneshot::Sender<()>,
}

pub(crate) struct OpenListener {
    pub(crate) group: u64,
    pub(crate) compiled: Arc<CompiledListener>,
    /// Present for a listener that the worker does not have yet.
    pub(crate) socket: Option<ListenSocket>,
    pub(crate) open: Arc<AtomicU32>,
}

/// Not yet known to a runtime.
pub(crate) enum ListenSocket {
    Stream(std::net::TcpListener),
    Datagram(std::net::UdpSocket),
}

/// What became of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerStatus {
    pub name: Arc<str>,
    pub origin: headwater_model::origin::Origin,
    pub protocol: Protocol,
    /// Where it is asked to listen; port 0 for any.
    pub asked: SocketAddr,
    /// Where it listens; the port is the real one even if the settings say 0.
    pub address: Option<SocketAddr>,
    /// Why it does not, or not fully.
    pub error: Option<String>,
}

/// What became of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    pub generation: u64,
    pub listeners: Vec<ListenerStatus>,
    /// Rules and certificates that the snapshot holds but that cannot be served.
    pub faults: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum ListenKey {
    Address(SocketAddr, Transport),
    /// A free port belongs to its listener by name.
    Named(Arc<str>, SocketAddr, Transport),
}

struct Socket {
    group: u64,
    address: SocketAddr,
    compiled: Arc<CompiledListener>,
}

impl Socket {
    fn port(&self) -> (u16, Transport) {
        (self.address.port(), self.compiled.snapshot.protocol.transport())
    }
}

/// Owner of everything derived from the snapshot.
pub(crate) struct Applier {
    workers: usize,
    sockets: HashMap<ListenKey, Socket>,
    next_group: u64,
    tables: Vec<(Arc<RouteTable>, Arc<CompiledTable>)>,
    tls: Vec<(Arc<TlsTermination>, Arc<ServerTls>)>,
    client_tls: HashMap<(Arc<UpstreamTls>, UpstreamProtocol), Arc<ClientTls>>,
    pools: Vec<Option<(Arc<Pool>, CompiledPool)>>,
    open: Arc<AtomicU32>,
    /// Hosts that pass through are not carried for want of what this host lacks.
    wants: bool,
}

impl Applier {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            sockets: HashMap::new(),
            next_group: 1,
            tables: Vec::new(),
            tls: Vec::new(),
            client_tls: HashMap::new(),
            pools: Vec::new(),
            open: Arc::default(),
            wants: false,
        }
    }

    /// Whether something that no listener's error tells of may be better the next time.
    pub(crate) fn waits(&self) -> bool {
        self.wants
    }

    /// Connections open right now, over all listeners and workers.
    pub(crate) fn open_connections(&self) -> Arc<AtomicU32> {
        self.open.clone()
    }

    /// Opens and compiles what is new; what is gone is dropped. One [`Update`] for each worker.
    pub(crate) fn apply(
        &mut self,
        snapshot: &GatewaySnapshot,
        names: &Names,
    ) -> (Vec<Update>, Vec<oneshot::Receiver<()>>, Applied) {
        let mut applied = Applied { generation: snapshot.generation, ..Applied::default() };
        let pools = self.compile_pools(snapshot, names, &mut applied);
        let previous_tables = std::mem::take(&mut self.tables);
        let previous_tls = std::mem::take(&mut self.tls);
        let mut previous = std::mem::take(&mut self.sockets);
        // Ports of ours that are given up: what takes their place may share them until they are closed.
        let kept: HashSet<ListenKey> = snapshot.listeners.iter().map(|listener| listen_key(listener)).collect();
        let given_up: HashSet<(u16, Transport)> =
            previous.iter().filter(|(key, _)| !kept.contains(key)).map(|(_, socket)| socket.port()).collect();
        let mut listeners: Vec<Vec<OpenListener>> = (0..self.workers).map(|_| Vec::new()).collect();
        let wants = |listener: &Listener| transparent::is_wanted(listener) || transparent::is_wanted_by_some(listener);
        let lacking = snapshot.listeners.iter().any(|listener| wants(listener)).then(transparent::lacking).flatten();
        self.wants = false;
        for listener in &snapshot.listeners {
            let mut status = ListenerStatus {
                name: listener.name.clone(),
                origin: listener.origin.clone(),
                protocol: listener.protocol,
                asked: SocketAddr::new(listener.address, listener.port),
                address: None,
                error: None,
            };
            if let Some(lacking) = &lacking
                && transparent::is_wanted_by_some(listener)
            {
                self.wants = true;
                applied.faults.push(format!("TLS that passes through listener {} is reset: {lacking}", listener.name));
            }
            if let Some(error) = unserved(listener, lacking.as_deref()) {
                status.error = Some(error.to_owned());
                applied.listeners.push(status);
                continue;
            }
            let table = self.table(&listener.routes, &previous_tables, &mut applied);
            let tls =
                match listener.tls.as_ref().map(|tls| self.server_tls(tls, &previous_tls, &mut applied)).transpose() {
                    Ok(tls) => tls,
                    Err(error) => {
                        status.error = Some(error);
                        applied.listeners.push(status);
                        continue;
                    }
                };
            let key = listen_key(listener);
            let known = previous.remove(&key);
            let compiled = match &known {
                Some(known) if is_same(&known.compiled, listener, &table, tls.as_ref()) => known.compiled.clone(),
                _ => Arc::new(CompiledListener { snapshot: listener.clone(), table, tls }),
            };
            let (group, address, sockets) = match known {
                Some(known) => (known.group, known.address, (0..self.workers).map(|_| None).collect()),
                None => match self.open(listener, given_up.contains(&(listener.port, listener.protocol.transport()))) {
                    Ok((group, address, sockets)) => {
                        (group, address, sockets.into_iter().map(Some).collect::<Vec<_>>())
                    }
                    Err(error) => {
                        status.error = Some(error);
                        applied.listeners.push(status);
                        continue;
                    }
                },
            };
            for (worker, socket) in listeners.iter_mut().zip(sockets) {
                worker.push(OpenListener { group, compiled: compiled.clone(), socket, open: self.open.clone() });
            }
            status.address = Some(address);
            applied.listeners.push(status);
            self.sockets.insert(key, Socket { group, address, compiled });
        }
        let mut updates = Vec::with_capacity(self.workers);
        let mut acks = Vec::with_capacity(self.workers);
        for listeners in listeners {
            let (done, ack) = oneshot::channel();
            updates.push(Update { listeners, pools: pools.clone(), done });
            acks.push(ack);
        }
        (updates, acks, applied)
    }

    /// `ours`: another socket of this gateway has the port, and is about to be closed.
    fn open(&mut self, listener: &Listener, ours: bool) -> Result<(u64, SocketAddr, Vec<ListenSocket>), String> {
        let wanted = SocketAddr::new(listener.address, listener.port);
        let sockets: Result<Vec<ListenSocket>, _> = match (listener.protocol.transport(), ours) {
            (Transport::Udp, ours) => bind_shared(wanted, self.workers, ours)
                .map(|sockets| sockets.into_iter().map(ListenSocket::Datagram).collect()),
            (_, true) => (0..self.workers).map(|_| listen(wanted, true, BACKLOG).map(ListenSocket::Stream)).collect(),
            (_, false) => listen_shared(wanted, self.workers, BACKLOG)
                .map(|sockets| sockets.into_iter().map(ListenSocket::Stream).collect()),
        };
        let sockets = sockets.map_err(|error| chain(&error))?;
        let address = match sockets.first() {
            Some(ListenSocket::Stream(socket)) => socket.local_addr(),
            Some(ListenSocket::Datagram(socket)) => socket.local_addr(),
            None => Ok(wanted),
        };
        let address = address.unwrap_or(wanted);
        self.next_group += 1;
        Ok((self.next_group, address, sockets))
    }

    fn table(
        &mut self,
        routes: &Arc<RouteTable>,
        previous: &[(Arc<RouteTable>, Arc<CompiledTable>)],
        applied: &mut Applied,
    ) -> Arc<CompiledTable> {
        let find = |tables: &[(Arc<RouteTable>, Arc<CompiledTable>)]| {
            tables.iter().find(|(known, _)| Arc::ptr_eq(known, routes)).map(|(_, compiled)| compiled.clone())
        };
        if let Some(known) = find(&self.tables) {
            return known;
        }
        let compiled = find(previous).unwrap_or_else(|| {
            // Hosts that have not changed are taken over from the table this one most likely replaces.
            let before = previous.get(self.tables.len()).map(|(_, compiled)| &**compiled);
            Arc::new(CompiledTable::compile(routes, before))
        });
        applied.faults.extend(compiled.faults().map(|fault| fault.to_string()));
        self.tables.push((routes.clone(), compiled.clone()));
        compiled
    }

    fn server_tls(
        &mut self,
        termination: &Arc<TlsTermination>,
        previous: &[(Arc<TlsTermination>, Arc<ServerTls>)],
        applied: &mut Applied,
    ) -> Result<Arc<ServerTls>, String> {
        let find = |tls: &[(Arc<TlsTermination>, Arc<ServerTls>)]| {
            tls.iter().find(|(known, _)| Arc::ptr_eq(known, termination)).map(|(_, compiled)| compiled.clone())
        };
        if let Some(known) = find(&self.tls) {
            return Ok(known);
        }
        let compiled = match find(previous) {
            Some(known) => known,
            None => {
                let before = previous.get(self.tls.len()).map(|(_, compiled)| &**compiled);
                Arc::new(ServerTls::new(termination, before).map_err(|error| chain(&error))?)
            }
        };
        applied.faults.extend(compiled.faults().iter().map(|fault| chain(fault)));
        self.tls.push((termination.clone(), compiled.clone()));
        Ok(compiled)
    }

    fn compile_pools(
        &mut self,
        snapshot: &GatewaySnapshot,
        names: &Names,
        applied: &mut Applied,
    ) -> Arc<Vec<Option<CompiledPool>>> {
        let mut previous = std::mem::take(&mut self.pools);
        previous.resize_with(snapshot.pools.0.len().max(previous.len()), || None);
        let mut client_tls = HashMap::new();
        self.pools = snapshot
            .pools
            .0
            .iter()
            .zip(previous)
            .map(|(pool, previous)| {
                let pool = pool.as_ref()?;
                let is_named = pool.endpoints.iter().any(|e| matches!(e.address, EndpointAddress::Dns(..)));
                let compiled = match previous {
                    Some((known, compiled)) if Arc::ptr_eq(&known, pool) && !is_named => compiled,
                    previous => {
                        let tls = match self.upstream_tls(pool, &mut client_tls) {
                            Ok(tls) => tls,
                            Err(error) => {
                                applied.faults.push(format!("service {}: {error}", pool.service));
                                return None;
                            }
                        };
                        let resolved = if is_named { resolved(pool, names) } else { pool.clone() };
                        match previous {
                            // The same addresses as before: nothing changes for the workers.
                            Some((_, compiled)) if is_named && *compiled.pool == *resolved => compiled,
                            _ => CompiledPool { pool: resolved, tls },
                        }
                    }
                };
                if let (Some(tls), Some(spec)) = (&compiled.tls, &pool.tls) {
                    client_tls.insert((spec.clone(), pool.protocol), tls.clone());
                }
                Some((pool.clone(), compiled))
            })
            .collect();
        self.client_tls = client_tls;
        Arc::new(self.pools.iter().map(|entry| entry.as_ref().map(|(_, compiled)| compiled.clone())).collect())
    }

    fn upstream_tls(
        &self,
        pool: &Pool,
        fresh: &mut HashMap<(Arc<UpstreamTls>, UpstreamProtocol), Arc<ClientTls>>,
    ) -> Result<Option<Arc<ClientTls>>, String> {
        let Some(spec) = &pool.tls else { return Ok(None) };
        let key = (spec.clone(), pool.protocol);
        if let Some(known) = fresh.get(&key).or_else(|| self.client_tls.get(&key)) {
            return Ok(Some(known.clone()));
        }
        let alpn: &[&[u8]] = match pool.protocol {
            UpstreamProtocol::Http1 => &[b"http/1.1"],
            UpstreamProtocol::Http2 => &[b"h2"],
            UpstreamProtocol::Tcp | UpstreamProtocol::Udp => &[],
        };
        let tls = Arc::new(ClientTls::new(spec, alpn).map_err(|error| chain(&error))?);
        fresh.insert(key, tls.clone());
        Ok(Some(tls))
    }
}

/// Why a listener cannot be served; `lacking`: what keeps this host from connecting as its clients.
fn unserved<'a>(listener: &Listener, lacking: Option<&'a str>) -> Option<&'a str> {
    if matches!(listener.protocol, Protocol::Tcp | Protocol::Udp) != listener.stream.is_some() {
        return Some("the snapshot has no route for its protocol");
    }
    lacking.filter(|_| transparent::is_wanted(listener))
}

fn listen_key(listener: &Listener) -> ListenKey {
    let address = SocketAddr::new(listener.address, listener.port);
    let transport = listener.protocol.transport();
    match listener.port {
        0 => ListenKey::Named(listener.name.clone(), address, transport),
        _ => ListenKey::Address(address, transport),
    }
}

fn is_same(
    known: &CompiledListener,
    listener: &Arc<Listener>,
    table: &Arc<CompiledTable>,
    tls: Option<&Arc<ServerTls>>,
) -> bool {
    Arc::ptr_eq(&known.snapshot, listener)
        && Arc::ptr_eq(&known.table, table)
        && match (&known.tls, tls) {
            (Some(known), Some(tls)) => Arc::ptr_eq(known, tls),
            (None, None) => true,
            _ => false,
        }
}

/// The pool with addresses in the place of names.
fn resolved(pool: &Arc<Pool>, names: &Names) -> Arc<Pool> {
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(pool.endpoints.len());
    for endpoint in &pool.endpoints {
        match &endpoint.address {
            EndpointAddress::Ip(_) => endpoints.push(endpoint.clone()),
            EndpointAddress::Dns(name, port) => endpoints.extend(
                names
                    .addresses(name, *port)
                    .map(|address| Endpoint { address: EndpointAddress::Ip(address), weight: endpoint.weight }),
            ),
        }
    }
    endpoints.sort();
    endpoints.dedup();
    Arc::new(Pool { endpoints, ..Pool::clone(pool) })
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
