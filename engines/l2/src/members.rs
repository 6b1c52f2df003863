//! Which nodes are alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nodes that may announce, by the signs of life that all of them leave in one place, in one order, this one too.
///
/// A node counts as dead when it was silent for its time, *and* this node's own signs of life came back often enough
/// meanwhile. So nobody counts as dead because the place is away, or slow, or because news of it came late and all at
/// once; and no clock of another node is compared with this one's.
#[derive(Debug)]
pub struct Members {
    me: Arc<str>,
    nodes: BTreeMap<Arc<str>, Node>,
    /// When this node's own last sign of life came back.
    echo: Option<Instant>,
    version: String,
}

#[derive(Debug)]
struct Node {
    version: String,
    patience: Duration,
    last: Instant,
    /// Own signs of life since.
    echoes: u32,
    dead: bool,
}

/// Own signs of life that have to come back before another node counts as dead.
const ECHOES: u32 = 4;

impl Members {
    /// This node alone.
    pub fn new(me: Arc<str>) -> Self {
        Self { me, nodes: BTreeMap::new(), echo: None, version: String::new() }
    }

    /// A sign of life; `version` differs from that of the one before, `patience` is how long the node may be silent.
    /// Returns whether who is alive has changed.
    pub fn hear(&mut self, now: Instant, node: &Arc<str>, version: &str, patience: Duration) -> bool {
        if *node == self.me {
            return self.heard_myself(now, version);
        }
        let fresh = || Node { version: version.to_owned(), patience, last: now, echoes: 0, dead: false };
        match self.nodes.get_mut(node) {
            Some(known) if known.version == version => false,
            Some(known) => {
                let was_dead = known.dead;
                *known = fresh();
                was_dead
            }
            None => {
                self.nodes.insert(node.clone(), fresh());
                true
            }
        }
    }

    fn heard_myself(&mut self, now: Instant, version: &str) -> bool {
        if self.version == version {
            return false;
        }
        version.clone_into(&mut self.version);
        self.echo = Some(now);
        let mut changed = false;
        for node in self.nodes.values_mut() {
            node.echoes = node.echoes.saturating_add(1);
            if !node.dead && node.echoes >= ECHOES && now.saturating_duration_since(node.last) >= node.patience {
                node.dead = true;
                changed = true;
            }
        }
        changed
    }

    /// A node says that it is gone. Returns whether who is alive has changed.
    pub fn leave(&mut self, node: &str) -> bool {
        self.nodes.remove(node).is_some_and(|node| !node.dead)
    }

    /// Nodes that are not among these are gone. Returns whether who is alive has changed.
    pub fn keep(&mut self, named: impl Fn(&str) -> bool) -> bool {
        let mut changed = false;
        self.nodes.retain(|name, node| {
            let stays = named(name);
            changed |= !stays && !node.dead;
            stays
        });
        changed
    }

    /// Whether a node is alive; this one always is.
    pub fn is_alive(&self, node: &str) -> bool {
        *self.me == *node || self.nodes.get(node).is_some_and(|node| !node.dead)
    }

    /// Whether the others know that this node is alive: its own sign of life came back within this time.
    pub fn is_known(&self, now: Instant, within: Duration) -> bool {
        self.echo.is_some_and(|echo| now.saturating_duration_since(echo) < within)
    }

    /// The living, this node among them, in the order of their names.
    pub fn alive(&self) -> Vec<Arc<str>> {
        let others = self.nodes.iter().filter(|(_, node)| !node.dead).map(|(name, _)| name.clone());
        let mut alive: Vec<Arc<str>> = others.chain([self.me.clone()]).collect();
        alive.sort_unstable();
        alive
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test says what time it is, beginning at any")]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    struct Stage {
        members: Members,
        start: Instant,
        version: u32,
    }

    impl Stage {
        fn new() -> Self {
            Self { members: Members::new("a".into()), start: Instant::now(), version: 0 }
        }

        /// A sign of life of a node after milliseconds.
        fn beat(&mut self, node: &str, at: u64) -> bool {
            self.version += 1;
            let version = self.version.to_string();
            self.members.hear(self.start + Duration::from_millis(at), &node.into(), &version, PATIENCE)
        }

        fn alive(&self) -> String {
            self.members.alive().concat()
        }
    }

    #[test]
    fn a_silent_node_is_dead_when_its_time_has_passed_and_alive_again_with_its_next_sign() {
        let mut stage = Stage::new();
        assert!(stage.beat("b", 0));
        for at in [100, 400, 700, 999] {
            assert!(!stage.beat("a", at), "{at}");
        }
        assert_eq!(stage.alive(), "ab");
        assert!(stage.beat("a", 1_000));
        assert_eq!(stage.alive(), "a");
        assert!(stage.beat("b", 1_100));
        assert_eq!(stage.alive(), "ab");
    }

    #[test]
    fn nobody_dies_while_no_own_sign_comes_back() {
        let mut stage = Stage::new();
        stage.beat("b", 0);
        stage.beat("a", 10);
        // The place was away for a minute; what comes then comes in the order in which it was left there.
        for (node, at) in [("a", 60_000), ("b", 60_001), ("a", 60_002), ("b", 60_003), ("a", 60_004), ("b", 60_005)] {
            assert!(!stage.beat(node, at), "{node} {at}");
        }
        assert_eq!(stage.alive(), "ab");
    }

    #[test]
    fn the_same_sign_seen_again_is_no_sign() {
        let mut stage = Stage::new();
        stage.beat("b", 0);
        let again = |stage: &mut Stage, at: u64| {
            stage.members.hear(stage.start + Duration::from_millis(at), &"b".into(), "1", PATIENCE)
        };
        for at in [300, 600, 900] {
            stage.beat("a", at);
            assert!(!again(&mut stage, at));
        }
        assert!(stage.beat("a", 1_200));
        assert!(!again(&mut stage, 1_201));
        assert_eq!(stage.alive(), "a");
    }

    #[test]
    fn who_leaves_is_gone_at_once_and_who_is_not_listed_too() {
        let mut stage = Stage::new();
        stage.beat("b", 0);
        stage.beat("c", 0);
        assert!(stage.members.leave("b"));
        assert!(!stage.members.leave("b"));
        assert_eq!(stage.alive(), "ac");
        assert!(stage.members.keep(|name| name == "b"));
        assert_eq!(stage.alive(), "a");
    }

    #[test]
    fn a_node_is_known_to_others_as_long_as_its_own_signs_come_back() {
        let mut stage = Stage::new();
        let known = |stage: &Stage, at: u64| stage.members.is_known(stage.start + Duration::from_millis(at), PATIENCE);
        assert!(!known(&stage, 0));
        stage.beat("a", 0);
        assert!(known(&stage, 999));
        assert!(!known(&stage, 1_000));
    }
}
