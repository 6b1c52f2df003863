//! Rules: to which Frontends they belong, and what moves when they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_model::alb::inherit::Levels;
use headwater_model::alb::{Frontend, Rule as Written};
use headwater_model::cluster::Cluster;
use headwater_model::finding::Finding;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use super::shown::{is_shown, not_served};
use super::told::{missing_alb, nameless};
use super::{Albs, Dirty, Placed, Tools, claimed, forget, wrong_reason};
use crate::alb::port::Claim;
use crate::alb::rule::{Entry, Made, Port, trace_of};
use crate::alb::view::View;
use crate::auth::Sources;
use crate::findings::Source;
use crate::ingress::same_rule;

impl Albs {
    pub(super) fn index_rules(&mut self, cluster: &Cluster, dirty: &Dirty) {
        for id in &dirty.rules {
            if let Some(placed) = self.rules.get(id) {
                forget(&mut self.rules_of, &placed.frontend, id);
            }
            let rule = cluster.rules.get(id).filter(|rule| !is_shown(rule, &self.domain));
            if let Some(frontend) = rule.and_then(|rule| self.frontend_of(rule)) {
                self.rules_of.entry(frontend).or_default().insert(id.clone());
            }
        }
    }

    fn frontend_of(&self, rule: &Written) -> Option<NamespacedName> {
        let name = rule.frontend(&self.domain)?;
        Some(NamespacedName::new(rule.metadata.namespace.clone(), name))
    }

    pub(super) fn translate_rules(&mut self, tools: &mut Tools<'_>, dirty: &Dirty) {
        // By Frontend, so that what its rules read is read once.
        let mut groups: BTreeMap<Option<NamespacedName>, Vec<&NamespacedName>> = BTreeMap::new();
        for id in &dirty.rules {
            if let Some(rule) = tools.cluster.rules.get(id).filter(|rule| is_shown(rule, &self.domain)) {
                let findings = not_served(rule, &self.domain).into_iter().collect();
                self.replace_rule(tools, id, None, Made { findings, ..Made::default() });
                continue;
            }
            let frontend = tools.cluster.rules.get(id).and_then(|rule| self.frontend_of(rule));
            groups.entry(frontend).or_default().push(id);
        }
        for (frontend, ids) in groups {
            let place = frontend.as_ref().and_then(|id| self.ports.get(id));
            let place = place.filter(|port| port.object.spec.protocol().is_l7());
            let place = place.map(|port| (port.object.clone(), port.view.clone()));
            match place {
                Some((object, view)) => self.translate_group(tools, &object, &view, &ids),
                None => {
                    for id in ids {
                        let told = self.misplaced(tools, id, frontend.as_ref());
                        self.replace_rule(tools, id, frontend.clone(), Made { findings: told, ..Made::default() });
                    }
                }
            }
        }
    }

    fn translate_group(
        &mut self,
        tools: &mut Tools<'_>,
        frontend: &Arc<Frontend>,
        view: &Arc<View>,
        ids: &[&NamespacedName],
    ) {
        let [alb_key, key] = [view.object.key(), frontend.key()];
        let domain = self.domain.clone();
        let (cluster, reads) = (tools.cluster, tools.options.reads_secrets);
        let port = Port {
            cluster,
            reads_secrets: reads,
            domain: &domain,
            view,
            frontend,
            sources: [&alb_key, &key].map(|key| Sources::new(cluster, key, reads)),
            trace: trace_of(&Levels::of_port(&view.object, frontend), view),
        };
        for id in ids {
            let Some(rule) = cluster.rules.get(*id) else { continue };
            let made = match rule.alb(&domain) {
                Some(name) if *name == *view.effective.name => port.rule(rule, tools.pools),
                name => {
                    let label = domain.name_label();
                    let message = format!(
                        "Frontend {} belongs to ALB2 {}, and the label {label} is {:?}; it is not served",
                        frontend.metadata.name,
                        view.effective.name,
                        name.unwrap_or_default()
                    );
                    let finding = Finding::warning("NotServed", rule.key(), message);
                    Made { findings: vec![finding.at(format!("metadata.labels[{label}]"))], ..Made::default() }
                }
            };
            self.replace_rule(tools, id, Some(frontend.id()), made);
        }
    }

    /// Moves a rule from what it was to what it is. What did not change keeps its pointer, and its place.
    fn replace_rule(
        &mut self,
        tools: &mut Tools<'_>,
        id: &NamespacedName,
        frontend: Option<NamespacedName>,
        mut made: Made,
    ) {
        let key = ObjectKey { kind: Kind::Rule, id: id.clone() };
        made.findings.extend(self.wrong_certificates(tools, &key, &made.claims, "spec.certificate_name"));
        made.findings.dedup();
        let exists = tools.cluster.rules.contains_key(id);
        tools.findings.set(Source::Rule(id.clone()), if exists { made.findings } else { Vec::new() });
        self.uses.set(&key, made.uses);
        self.certified.set(&key, claimed(&made.claims));
        let old = self.rules.remove(id);
        let new = frontend.filter(|_| exists);
        let mut new: Vec<Placed> =
            new.map(|frontend| Placed { frontend, entries: made.entries, claims: made.claims }).into_iter().collect();
        self.place(tools, old.into_iter().collect(), &mut new);
        self.rules.extend(new.pop().map(|placed| (id.clone(), placed)));
    }

    /// Moves what an object is at its ports from what it was. What did not change keeps its pointer, and its place.
    pub(super) fn place(&mut self, tools: &mut Tools<'_>, old: Vec<Placed>, new: &mut [Placed]) {
        for placed in new.iter_mut() {
            let Some(before) = old.iter().find(|before| before.frontend == placed.frontend) else { continue };
            let by_tie: BTreeMap<&str, &Entry> =
                before.entries.iter().map(|entry| (&*entry.rule.precedence.tie, entry)).collect();
            for entry in &mut placed.entries {
                let before = by_tie.get(&*entry.rule.precedence.tie);
                if let Some(before) = before.filter(|before| same_rule(&before.rule, &entry.rule)) {
                    entry.rule = before.rule.clone();
                }
            }
        }
        for before in &old {
            if let Some(port) = self.ports.get_mut(&before.frontend) {
                let after = new.iter().find(|after| after.frontend == before.frontend);
                let kept: BTreeMap<&str, &Entry> = after
                    .into_iter()
                    .flat_map(|after| &after.entries)
                    .map(|entry| (&*entry.rule.precedence.tie, entry))
                    .collect();
                for entry in &before.entries {
                    let stays = kept
                        .get(&*entry.rule.precedence.tie)
                        .is_some_and(|after| Arc::ptr_eq(&after.rule, &entry.rule) && after.hosts == entry.hosts);
                    if !stays {
                        port.table.remove(&entry.hosts, &entry.rule.precedence);
                    }
                }
                before.claims.iter().for_each(|claim| port.unclaim(claim));
            }
        }
        for placed in new.iter() {
            if let Some(port) = self.ports.get_mut(&placed.frontend) {
                placed.entries.iter().for_each(|entry| port.table.insert(&entry.hosts, &entry.rule));
                placed.claims.iter().for_each(|claim| port.claim(claim));
            }
        }
        let held = old.iter().flat_map(|before| &before.entries).flat_map(|entry| &entry.pools);
        held.for_each(|pool| tools.pools.release(*pool));
    }

    /// Loads certificates that nobody named before, and tells what is wrong with those of these names.
    pub(super) fn wrong_certificates(
        &mut self,
        tools: &Tools<'_>,
        key: &ObjectKey,
        claims: &[Claim],
        field: &str,
    ) -> Vec<Finding> {
        let mut found = Vec::new();
        for (name, secret) in claims {
            let wrong = self.load_certificate(tools, secret);
            let told = match (wrong, self.certificates.get(secret)) {
                (Some(wrong), _) => {
                    let message = format!("{wrong}; the certificate of the Frontend is served");
                    Some(Finding::error(wrong_reason(&wrong), key.clone(), message))
                }
                (None, Some(Ok(loaded)))
                    if !loaded.certificate.names.iter().any(|known| crate::host::covers(known, name)) =>
                {
                    let message =
                        format!("the certificate of Secret {secret} does not cover {name}; clients will refuse it");
                    Some(Finding::warning("HostNotCovered", key.clone(), message))
                }
                _ => None,
            };
            found.extend(told.map(|finding| finding.at(field)));
        }
        found
    }

    /// Why a Rule without an open Frontend is not served, where that may surprise.
    fn misplaced(&self, tools: &Tools<'_>, id: &NamespacedName, frontend: Option<&NamespacedName>) -> Vec<Finding> {
        let Some(rule) = tools.cluster.rules.get(id) else { return Vec::new() };
        let Some(alb) = rule.alb(&self.domain) else {
            return nameless(rule.key(), &self.domain.name_label(), tools.options);
        };
        let alb = NamespacedName::new(id.namespace.clone(), alb);
        if !self.views.contains_key(&alb) {
            return missing_alb(rule.key(), &alb, &self.domain.name_label(), tools);
        }
        let label = self.domain.frontend_label();
        let message = match frontend {
            None => format!("the label {label} is missing, so that it belongs to no Frontend; it is not served"),
            Some(frontend) if tools.cluster.frontends.contains_key(frontend) => {
                format!("Frontend {} is not opened, or is of tcp or udp; the Rule is not served", frontend.name)
            }
            Some(frontend) => format!("Frontend {frontend} does not exist; the Rule is not served"),
        };
        let reason = if message.contains("does not exist") { "MissingReference" } else { "NotServed" };
        vec![Finding::warning(reason, rule.key(), message).at(format!("metadata.labels[{label}]"))]
    }
}
