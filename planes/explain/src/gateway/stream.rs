//! A listener that does not read what it carries: TCP, UDP, and TLS for the endpoints.

use std::sync::Arc;

use headwater_client_address::Client;
use headwater_model::client::EmitProxyProtocol;
use headwater_model::gateway::{Pool, StreamRoute};
use headwater_model::origin::{Kind, ObjectKey};

use super::Arrived;
use crate::answer::{Action, Cause, Flow, Path, Sees, Verdict, VerdictKind};
use crate::end::End;
use crate::mend;
use crate::walk::Trail;

impl Arrived<'_> {
    pub(super) fn carry(
        &self,
        mut trail: Trail,
        client: &Client,
        accepted: Option<u32>,
        route: &StreamRoute,
        pools: &[Arc<Pool>],
    ) -> Path {
        let mut causes = vec![Cause {
            object: Some(route.origin.key.clone()),
            field: route.field.to_string(),
            value: String::new(),
        }];
        for pool in pools {
            let object = Some(ObjectKey { kind: Kind::Service, id: pool.service.clone() });
            causes.push(Cause { object, field: "spec.ports".to_owned(), value: pool.port.to_string() });
        }
        let taking = pools.iter().flat_map(|pool| pool.endpoints.iter().filter(|endpoint| endpoint.weight > 0));
        let mut backends: Vec<String> = taking.map(|endpoint| endpoint.address.to_string()).collect();
        backends.sort();
        backends.dedup();
        if backends.is_empty() {
            if let Some(pool) = pools.first() {
                trail.mends.push(mend::no_endpoints(&pool.service));
            }
            let reason = route.refuse.as_deref().unwrap_or("no_endpoints");
            return self.refuse(trail, causes, format!("carries nothing ({reason}): no endpoint can take it"));
        }
        trail.backends = backends;
        let told = pools.iter().any(|pool| pool.emit_proxy_protocol != EmitProxyProtocol::Off);
        let proxy_header = told.then(|| client.addr.to_string());
        let (source, why) = match (route.transparent, told) {
            (true, _) => (End::Address(client.addr), "connects from the client's own address"),
            (false, true) => {
                (self.own_end(), "opens a connection of its own, and tells the client's address ahead of it")
            }
            (false, false) => (self.own_end(), "opens a connection of its own, and tells nobody the client's address"),
        };
        let after = Flow { source: source.clone(), destination: End::Backend };
        trail.hops.push(self.hop(Action::Proxy, Some(after), causes, why.to_owned()));
        let sees = Sees { peer: source, ..self.sees(client, Vec::new(), proxy_header) };
        if !route.transparent && !told {
            let hop = trail.changed();
            trail.mends.push(mend::tell(route.origin.key.clone()));
            let why = format!("the backend takes the gateway for the client, in place of {}", self.client);
            return trail.path(Verdict { kind: VerdictKind::Lost, hop, why }, Some(sees));
        }
        self.close(trail, client, accepted, sees, "the backend")
    }
}
