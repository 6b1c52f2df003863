//! Addresses that Services of a directory were given: what an API server keeps in their status.
//!
//! They are kept in [`FILE`], below a hidden name, so that they are no manifest. Whoever reads the directory finds them in
//! the status of its Services.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_model::cluster::Object;
use headwater_model::finding::{Finding, Location};
use headwater_model::metallb::ALLOCATED_ANNOTATION;
use headwater_model::object::{LoadBalancerIngress, Service};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use serde::{Deserialize, Serialize};

use super::scan::{Unreadable, read_text};
use crate::manifest::say;

/// Where they are, below the directory.
pub(crate) const FILE: &str = ".headwater/addresses.json";

/// The directory of [`FILE`].
pub(crate) const FOLDER: &str = ".headwater";

/// Whoever gives addresses holds the lock of this file, so that no other process does.
const LOCK: &str = "lock";

const VERSION: u32 = 1;

/// Told in the file, to whoever finds it.
const ABOUT: &str = "addresses that Services of this directory have; headwater up keeps them here";

/// What one Service was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// None: what the manifest's own status says does not count.
    pub addresses: Vec<IpAddr>,
    pub pool: Option<Arc<str>>,
}

/// What every Service of a directory was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenAddresses(BTreeMap<NamespacedName, Given>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    about: String,
    version: u32,
    services: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    service: String,
    addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
}

impl GivenAddresses {
    pub fn get(&self, service: &NamespacedName) -> Option<&Given> {
        self.0.get(service)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&NamespacedName, &Given)> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn set(&mut self, service: NamespacedName, given: Given) {
        self.0.insert(service, given);
    }

    pub fn remove(&mut self, service: &NamespacedName) -> Option<Given> {
        self.0.remove(service)
    }

    /// The object with what it was given in its status.
    pub fn onto(&self, object: Object) -> Object {
        let Object::Service(service) = &object else { return object };
        let Some(given) = self.0.get(&service.id()) else { return object };
        let mut service = Service::clone(service);
        let ip = |address: &IpAddr| LoadBalancerIngress { ip: Some(address.to_string()), ..Default::default() };
        service.status.load_balancer.ingress = given.addresses.iter().map(ip).collect();
        match &given.pool {
            Some(pool) => drop(service.metadata.annotations.insert(ALLOCATED_ANNOTATION.to_owned(), pool.to_string())),
            None => drop(service.metadata.annotations.remove(ALLOCATED_ANNOTATION)),
        }
        Object::Service(Arc::new(service))
    }

    /// Services that the two say something else of.
    pub(crate) fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = ObjectKey> + 'a {
        let services = self.0.keys().chain(other.0.keys()).filter(|id| self.0.get(*id) != other.0.get(*id));
        services.map(|id| ObjectKey { kind: Kind::Service, id: id.clone() })
    }

    /// Reads the text of the file.
    pub(crate) fn parse(text: &str) -> Result<Self, Box<Finding>> {
        let wrong = |line: usize, message: String| broken(line, &message);
        let page: Page = serde_json::from_str(text).map_err(|error| wrong(error.line(), error.to_string()))?;
        if page.version != VERSION {
            return Err(wrong(1, format!("version {} is not read; {VERSION} is", page.version)));
        }
        let mut given = Self::default();
        for Line { service, addresses, pool } in page.services {
            let id = NamespacedName::parse(&service)
                .ok_or_else(|| wrong(1, format!("\"{service}\" does not take the form namespace/name")))?;
            if given.0.insert(id, Given { addresses, pool: pool.map(Arc::from) }).is_some() {
                return Err(wrong(1, format!("Service {service} stands here twice")));
            }
        }
        Ok(given)
    }

    fn render(&self) -> String {
        let line = |(id, given): (&NamespacedName, &Given)| Line {
            service: id.to_string(),
            addresses: given.addresses.clone(),
            pool: given.pool.as_deref().map(str::to_owned),
        };
        let page = Page { about: ABOUT.to_owned(), version: VERSION, services: self.0.iter().map(line).collect() };
        serde_json::to_string_pretty(&page).expect("texts and numbers are JSON") + "\n"
    }
}

fn broken(line: usize, why: &str) -> Box<Finding> {
    let location = Location { file: FILE.into(), line: u32::try_from(line.max(1)).unwrap_or(u32::MAX) };
    let message = format!("the addresses that Services have cannot be read ({why}); none is given");
    let finding = say::error("InvalidAddresses", location, message);
    Box::new(finding.mend("correct the file; where it is deleted, Services get addresses anew, perhaps others"))
}

/// The file, kept by this process alone until it is dropped.
#[derive(Debug)]
pub struct AddressFile {
    folder: PathBuf,
    /// Unlocked by the kernel when the process ends, however it does.
    _lock: File,
}

impl AddressFile {
    /// Whether addresses were given in this directory.
    pub fn exists(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Takes it; `None` where another process has it. Blocks for the time of some file operations.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub fn take(directory: &Path) -> io::Result<Option<Self>> {
        let folder = directory.join(FOLDER);
        match fs::create_dir(&folder) {
            Ok(()) => File::open(directory)?.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { folder, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// What it says; nothing where it is not there yet.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn read(&self) -> Result<GivenAddresses, Box<Finding>> {
        match read_text(&self.folder.join("addresses.json")) {
            Ok(text) => GivenAddresses::parse(&text),
            Err(Unreadable::Gone) => Ok(GivenAddresses::default()),
            Err(Unreadable::Because(why)) => Err(broken(1, &why)),
        }
    }

    /// Writes it whole, in one step: whoever reads finds what was there or what is there, whenever the machine stops.
    ///
    /// # Errors
    /// When it cannot be written; then what was there stays.
    pub fn write(&self, given: &GivenAddresses) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let new = self.folder.join("addresses.json.new");
        let mut file = File::create(&new)?;
        file.write_all(given.render().as_bytes())?;
        file.sync_all()?;
        fs::rename(new, self.folder.join("addresses.json"))?;
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> GivenAddresses {
        let mut given = GivenAddresses::default();
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let web = Given { addresses: addresses(&["192.0.2.1", "2001:db8::1"]), pool: Some("first".into()) };
        given.set(NamespacedName::new("shop", "web"), web);
        given.set(NamespacedName::new("shop", "none"), Given::default());
        given
    }

    #[test]
    fn what_is_written_is_read_and_only_one_process_writes() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!AddressFile::exists(directory.path()));
        let file = AddressFile::take(directory.path()).unwrap().unwrap();
        assert_eq!(file.read(), Ok(GivenAddresses::default()));
        file.write(&given()).unwrap();
        assert_eq!(file.read(), Ok(given()));
        assert!(AddressFile::exists(directory.path()));
        assert!(AddressFile::take(directory.path()).unwrap().is_none(), "taken twice");
        drop(file);
        let again = AddressFile::take(directory.path()).unwrap().unwrap();
        assert_eq!(again.read(), Ok(given()));
    }

    #[test]
    fn what_is_broken_is_refused_with_its_line_and_a_mend() {
        let text = given().render();
        for (spoilt, line, words) in [
            (String::new(), 1, "EOF"),
            (text[..text.len() / 2].to_owned(), 8, "EOF"),
            (text.replace("192.0.2.1", "192.0.2.1.1"), 13, "IP address"),
            (text.replace("\"version\": 1", "\"version\": 2"), 1, "version 2"),
            (text.replace("shop/none", "shop"), 1, "namespace/name"),
            (text.replace("shop/none", "shop/web"), 1, "twice"),
            (text.replace("\"pool\"", "\"pond\""), 14, "unknown field"),
        ] {
            let finding = GivenAddresses::parse(&spoilt).unwrap_err();
            assert!(finding.message.contains(words) && finding.mend.contains("correct"), "{finding}");
            assert_eq!(finding.location.as_ref().map(|at| at.line.abs_diff(line) <= 4), Some(true), "{words}");
        }
    }
}
