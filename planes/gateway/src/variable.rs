//! What a request has of the variables that edits of headers are written with.

use std::borrow::Cow;

use headwater_client_address::{Verdict, verdict};
use headwater_model::client::Provenance;
use headwater_model::gateway::Variable;

use crate::headers::Variables;
use crate::message::Request;
use crate::outbound;
use crate::plan::{self, Plan};
use crate::redirect::split_port;

/// A request that has been planned.
pub(crate) struct Asked<'a, R> {
    pub(crate) request: &'a R,
    pub(crate) plan: &'a Plan<'a>,
}

impl<R: Request> Variables for Asked<'_, R> {
    fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let (request, plan) = (self.request, self.plan);
        let client = &plan.client;
        let query = || request.target().split_once('?').map_or("", |(_, query)| query);
        Some(match variable {
            Variable::Client => owned(client.addr.to_string()),
            Variable::ForwardedClient => match client.provenance {
                Provenance::Socket => Cow::Borrowed(b""),
                _ => owned(client.addr.to_string()),
            },
            Variable::Host => {
                let authority = String::from_utf8_lossy(request.authority());
                let (host, _) = split_port(&authority);
                Some(host).filter(|host| !host.is_empty()).map(|host| owned(host.to_ascii_lowercase()))?
            }
            Variable::Authority => Some(request.authority()).filter(|host| !host.is_empty()).map(Cow::Borrowed)?,
            Variable::Scheme => Cow::Borrowed(client.scheme.as_str().as_bytes()),
            Variable::ServerPort => owned(client.server_port.to_string()),
            Variable::Protocol => Cow::Borrowed(request.version().as_bytes()),
            Variable::Method => Cow::Borrowed(request.method().as_bytes()),
            Variable::Target => Cow::Borrowed(request.target().as_bytes()),
            Variable::Path => Cow::Borrowed(plan.path.as_str().as_bytes()),
            Variable::Query => Cow::Borrowed(query().as_bytes()),
            Variable::RequestId => Cow::Owned(outbound::outbound(request, plan).request_id().to_vec()),
            Variable::Header(name) => header(request, plan, name)?,
            Variable::Cookie(name) => {
                let value = plan::cookie(request, name)?;
                let bare = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
                Cow::Owned(bare.unwrap_or(value).to_vec())
            }
            Variable::Argument(name) => Cow::Borrowed(argument(query(), name)?.as_bytes()),
        })
    }
}

fn owned(text: String) -> Cow<'static, [u8]> {
    Cow::Owned(text.into_bytes())
}

/// Several lines joined; what an untrusted sender claims about the client is not there.
fn header<'a, R: Request>(request: &'a R, plan: &Plan<'_>, name: &str) -> Option<Cow<'a, [u8]>> {
    let policy = &plan.listener.snapshot.client_address;
    if verdict(policy, name.as_bytes(), plan.client.trusted_sender) == Verdict::Drop {
        return None;
    }
    let mut joined: Option<Cow<'a, [u8]>> = None;
    request.each_value(name, |value| match &mut joined {
        None => joined = Some(Cow::Borrowed(value)),
        Some(lines) => {
            let lines = lines.to_mut();
            lines.extend_from_slice(b", ");
            lines.extend_from_slice(value);
        }
    });
    joined
}

/// The first parameter of the name that has a value, as received.
fn argument<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_with_a_value_counts() {
        for (query, expected) in [
            ("", None),
            ("x", None),
            ("x=", Some("")),
            ("x&X=1&x=2", Some("1")),
            ("y=x=1&x=%20", Some("%20")),
            ("xx=1", None),
        ] {
            assert_eq!(argument(query, "x"), expected, "{query}");
        }
    }
}
