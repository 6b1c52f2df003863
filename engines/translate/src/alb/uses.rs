//! Which objects of the ALB name which Services, Secrets and ConfigMaps.

use std::collections::BTreeSet;

use ahash::AHashMap as HashMap;
use headwater_model::origin::{Kind, ObjectKey};

/// Both ways round; what is named need not exist.
#[derive(Debug, Default)]
pub(super) struct Uses {
    of: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    by: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// Whether other Secrets, or ConfigMaps, are named than at the last look.
    changed: bool,
}

impl Uses {
    /// `user` names these now, and nothing else.
    pub(super) fn set(&mut self, user: &ObjectKey, named: BTreeSet<ObjectKey>) {
        let before = self.of.remove(user).unwrap_or_default();
        for key in before.difference(&named) {
            let Some(users) = self.by.get_mut(key) else { continue };
            users.remove(user);
            if users.is_empty() {
                self.changed |= key.kind != Kind::Service;
                self.by.remove(key);
            }
        }
        for key in named.difference(&before) {
            let users = self.by.entry(key.clone()).or_default();
            self.changed |= users.is_empty() && key.kind != Kind::Service;
            users.insert(user.clone());
        }
        if !named.is_empty() {
            self.of.insert(user.clone(), named);
        }
    }

    pub(super) fn users_of(&self, key: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.by.get(key).into_iter().flatten()
    }

    pub(super) fn is_used(&self, key: &ObjectKey) -> bool {
        self.by.contains_key(key)
    }

    /// Secrets and ConfigMaps that are named.
    pub(super) fn sources(&self) -> impl Iterator<Item = &ObjectKey> {
        self.by.keys().filter(|key| key.kind != Kind::Service)
    }

    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_names_any_more_is_forgotten() {
        let key = |kind, name: &str| ObjectKey::new(kind, "a", name);
        let (rule, other) = (key(Kind::Rule, "rule"), key(Kind::Rule, "other"));
        let (service, secret) = (key(Kind::Service, "web"), key(Kind::Secret, "users"));
        let mut uses = Uses::default();
        uses.set(&rule, [service.clone()].into());
        assert!(!uses.take_changed(), "Services are read without being named");
        uses.set(&rule, [service.clone(), secret.clone()].into());
        assert!(uses.take_changed() && !uses.take_changed());
        uses.set(&other, [secret.clone()].into());
        uses.set(&rule, BTreeSet::new());
        assert!(!uses.take_changed());
        assert_eq!((uses.users_of(&secret).collect::<Vec<_>>(), uses.is_used(&service)), (vec![&other], false));
        uses.set(&other, BTreeSet::new());
        assert!(uses.take_changed());
        assert_eq!((uses.sources().count(), uses.of.len()), (0, 0));
    }
}
