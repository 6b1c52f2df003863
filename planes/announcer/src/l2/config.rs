//! What the plane is told besides objects.

use std::sync::Arc;
use std::time::Duration;

use regex::RegexSet;

/// Names of interfaces that MetalLB leaves out, as regular expressions: those of pods, tunnels, and of nothing outside.
pub const DEFAULT_EXCLUDED: [&str; 15] = [
    "^docker.*",
    "^cbr.*",
    "^dummy.*",
    "^virbr.*",
    "^lxcbr.*",
    "^veth.*",
    "^lo$",
    "^cali.*",
    "^tunl.*",
    "^flannel.*",
    "^kube-ipvs.*",
    "^cni.*",
    "^nodelocaldns.*",
    "^lxc.*",
    // Ours: of the tunnel between nodes.
    "^hwvx.*",
];

/// Between two signs of life of a node. Default 300 ms.
pub const RENEW: Duration = Duration::from_millis(300);

/// How long a node may be silent before others take over. Default 1 s.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What the plane is told besides objects.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `metadata.name` of this node's Node.
    pub node: Arc<str>,
    /// Names of interfaces that are not used, whatever advertisements say.
    pub excluded: RegexSet,
}

/// Reads names of interfaces that are not used.
///
/// # Errors
/// Which expression cannot be read.
pub fn excluded<T: AsRef<str>>(patterns: &[T]) -> Result<RegexSet, String> {
    RegexSet::new(patterns).map_err(|error| format!("interfaces that are not used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_pods_and_tunnels_are_not_used_and_hardware_is() {
        let set = excluded(&DEFAULT_EXCLUDED).unwrap();
        for (name, is_excluded) in [
            ("lo", true),
            ("veth3af1", true),
            ("cali123", true),
            ("cni0", true),
            ("eth0", false),
            ("bond0.12", false),
            ("lo0", false),
            ("enp3s0", false),
        ] {
            assert_eq!(set.is_match(name), is_excluded, "{name}");
        }
        assert!(excluded(&["("]).unwrap_err().contains("not used"));
    }
}
