//! Routers that are known by the interface they are behind alone: each side advertises itself there, as RFC 4861 has it for
//! routers, and so learns the other's link-local address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_l2::Mac;
use headwater_l2::frame::RouterAdvertisement;
use headwater_net_io::router::RouterSocket;
use headwater_netlink::Netlink;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Between two advertisements of ours.
const TELL: Duration = Duration::from_secs(5);

/// Between two looks at the interface.
const LOOK: Duration = Duration::from_secs(2);

/// An interface that is not there, or cannot be used, is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// While the router was heard within this time, no other one on the same interface takes its place.
const PATIENCE: Duration = Duration::from_secs(30);

/// Link-local addresses of routers, and the numbers of their interfaces, by the interfaces' names.
pub type Heard = BTreeMap<Arc<str>, (Ipv6Addr, u32)>;

/// Listens for routers. When it is dropped, it is silent.
pub(super) struct Discovery {
    heard: Arc<watch::Sender<Heard>>,
    tasks: BTreeMap<Arc<str>, JoinHandle<()>>,
}

impl Drop for Discovery {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Discovery {
    /// On no interface yet.
    pub(super) fn new() -> (Self, watch::Receiver<Heard>) {
        let (heard, receiver) = watch::channel(Heard::new());
        (Self { heard: Arc::new(heard), tasks: BTreeMap::new() }, receiver)
    }

    /// Listens, and tells, on these interfaces and no others.
    pub(super) fn look_on(&mut self, interfaces: &BTreeSet<Arc<str>>) {
        self.tasks.retain(|name, task| {
            let stays = interfaces.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
        for name in interfaces {
            if !self.tasks.contains_key(name) {
                let task = tokio::spawn(follow(name.clone(), self.heard.clone()));
                self.tasks.insert(name.clone(), task);
            }
        }
    }
}

/// An interface on which routers can be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    index: u32,
    mac: Option<Mac>,
    own: Ipv6Addr,
}

impl Place {
    /// Blocks for as long as the kernel needs to list addresses.
    fn find(name: &str) -> Result<Self, String> {
        let mut netlink = Netlink::open().map_err(|error| error.to_string())?;
        let link = netlink.link(name).map_err(|error| error.to_string())?;
        let link = link.filter(|link| link.up).ok_or("it is not there, or down")?;
        let addresses = netlink.addresses().map_err(|error| error.to_string())?;
        let own = addresses.iter().filter(|(index, _)| *index == link.index).find_map(|(_, net)| match net.addr() {
            IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
            _ => None,
        });
        let own = own.ok_or("it has no link-local address: is IPv6 switched off there?")?;
        Ok(Self { index: link.index, mac: link.mac.map(Mac), own })
    }
}

async fn place(name: &Arc<str>) -> Result<Place, String> {
    let name = name.clone();
    // A panic is said in the log.
    tokio::task::spawn_blocking(move || Place::find(&name)).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Through all that happens to the interface.
async fn follow(name: Arc<str>, heard: Arc<watch::Sender<Heard>>) {
    let mut complained = None;
    loop {
        let socket = place(&name).await.and_then(|place| {
            let socket = RouterSocket::open(&name, place.index).map_err(|error| error.to_string())?;
            Ok((place, socket))
        });
        let why = match socket {
            Ok((place, socket)) => {
                tracing::info!(interface = &*name, "routers are listened for");
                listen(&name, place, &socket, &heard).await
            }
            Err(why) => why,
        };
        if complained.as_ref() != Some(&why) {
            tracing::warn!(interface = &*name, why, "routers cannot be listened for; it is tried again");
            complained = Some(why);
        }
        sleep(RETRY).await;
    }
}

/// Until something is wrong.
async fn listen(name: &Arc<str>, here: Place, socket: &RouterSocket, heard: &watch::Sender<Heard>) -> String {
    let ours = RouterAdvertisement { lifetime: 0, sender: here.mac }.render();
    let (mut tell, mut look) = (interval(TELL), interval(LOOK));
    for timer in [&mut tell, &mut look] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut current: Option<(Ipv6Addr, Instant)> = None;
    loop {
        tokio::select! {
            message = socket.receive() => match message {
                Ok((from, bytes)) if from != here.own && RouterAdvertisement::parse(&bytes).is_ok() => {
                    let now = Instant::now();
                    if !current.is_none_or(|(known, last)| known == from || now - last >= PATIENCE) {
                        continue;
                    }
                    let is_new = current.replace((from, now)).is_none_or(|(known, _)| known != from);
                    if is_new {
                        tracing::info!(interface = &**name, router = %from, "a router was heard");
                        // It may have come just now, and not have heard the last one.
                        tell.reset_immediately();
                    }
                    heard.send_if_modified(|all| all.insert(name.clone(), (from, here.index)) != Some((from, here.index)));
                }
                Ok(_) => {}
                Err(error) => return error.to_string(),
            },
            _ = tell.tick() => if let Err(error) = socket.tell(&ours).await {
                return error.to_string();
            },
            _ = look.tick() => match place(name).await {
                Ok(now) if now == here => {}
                Ok(_) => return "it is another one now".to_owned(),
                Err(why) => return why,
            },
        }
    }
}
