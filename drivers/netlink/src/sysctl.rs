//! Parameters of the kernel, such as `net.ipv4.conf.eth0.rp_filter`, of the network namespace of the calling thread.
//!
//! Names are written as for the program `sysctl`: a dot separates, and a dot within a part, as names of VLAN devices
//! have it, is a slash (`net.ipv4.conf.eth0/100.rp_filter`).

use std::io;
use std::path::{Path, PathBuf};

/// Why a parameter could not be read or set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysctlError {
    /// It belongs to no network namespace, or is no name at all.
    #[error("sysctl {name:?}: only parameters below net. are of a network namespace")]
    Name {
        /// The name.
        name: String,
    },
    /// The kernel did not let it be read.
    #[error("sysctl {name}: read: {why}")]
    Read {
        /// The name.
        name: String,
        /// Why.
        why: io::Error,
    },
    /// The kernel did not let it be set.
    #[error(
        "sysctl {name}: set to {value:?}: {why}; CAP_NET_ADMIN is needed, and a writable /proc/sys/net (or /host/proc/sys/net)"
    )]
    Write {
        /// The name.
        name: String,
        /// The value.
        value: String,
        /// Why.
        why: io::Error,
    },
}

impl SysctlError {
    /// The kernel's number, an `errno`; `ENOENT` if there is no such parameter.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Name { .. } => None,
            Self::Read { why, .. } | Self::Write { why, .. } => why.raw_os_error(),
        }
    }
}

/// The value of a parameter, without the end of its line.
///
/// # Errors
/// When there is no such parameter.
pub fn read(name: &str) -> Result<String, SysctlError> {
    let text = std::fs::read_to_string(path(name)?);
    let text = text.map_err(|why| SysctlError::Read { name: name.to_owned(), why })?;
    Ok(text.trim_end().to_owned())
}

/// Where parameters are set, where container runtimes mount `/proc/sys` read-only: a pod mounts `/proc/sys/net` of its
/// host below it.
const OF_HOST: &str = "/host/proc/sys";

/// Sets a parameter.
///
/// # Errors
/// When there is no such parameter, it does not take the value, or the process may not set it.
pub fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    let failed = |why| SysctlError::Write { name: name.to_owned(), value: value.to_owned(), why };
    // One call: the kernel takes what comes with the first.
    match std::fs::write(path(name)?, value) {
        Err(why) if why.kind() == io::ErrorKind::ReadOnlyFilesystem && Path::new(OF_HOST).is_dir() => {
            std::fs::write(path_below(OF_HOST, name)?, value).map_err(failed)
        }
        written => written.map_err(failed),
    }
}

fn path(name: &str) -> Result<PathBuf, SysctlError> {
    path_below("/proc/sys", name)
}

fn path_below(root: &str, name: &str) -> Result<PathBuf, SysctlError> {
    let mut path = Path::new(root).to_path_buf();
    let parts: Vec<String> = name.split('.').map(|part| part.replace('/', ".")).collect();
    let plain = |part: &String| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if parts.len() < 2 || parts[0] != "net" || !parts.iter().all(plain) {
        return Err(SysctlError::Name { name: name.to_owned() });
    }
    path.extend(parts);
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_below_net_and_nowhere_else() {
        let cases = [
            ("net.ipv4.ip_forward", Some("/proc/sys/net/ipv4/ip_forward")),
            ("net.ipv4.conf.eth0/100.rp_filter", Some("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")),
            ("kernel.hostname", None),
            ("net", None),
            ("", None),
            ("net..ipv4", None),
            ("net.//.kernel.hostname", None),
            ("net./.ipv4", None),
            ("/etc/passwd", None),
        ];
        for (name, expected) in cases {
            assert_eq!(path(name).ok().as_deref(), expected.map(Path::new), "{name}");
        }
    }
}
