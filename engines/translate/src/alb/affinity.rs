//! How endpoints are chosen for a Rule or a Frontend.

use headwater_model::alb::Affinity;
use headwater_model::gateway::{AffinityCookie, Balance, HashKey, is_cookie_name};

/// The balancing that `session_affinity_policy` means. `Err`: what is wrong with its attribute; the balancing is then in
/// turn, as for a policy that nobody knows.
///
/// `sip-hash` hashes the client `R`, which is the first of `X-Forwarded-For` where a trusted proxy says so, and never the
/// word of somebody else. A request without the header of `header` goes where the load is least.
pub fn balance(affinity: &Affinity) -> Result<Balance, String> {
    Ok(match affinity {
        Affinity::RoundRobin => Balance::RoundRobin,
        Affinity::Ewma => Balance::PeakEwma,
        Affinity::SourceIp => Balance::Hash(HashKey::Client),
        Affinity::Header(name) | Affinity::Cookie(name) if !is_cookie_name(name) => {
            return Err(format!("{name:?} is not a name of a header or cookie"));
        }
        Affinity::Header(name) => Balance::Hash(HashKey::Header(name.to_ascii_lowercase().into())),
        Affinity::Cookie(name) => Balance::Cookie(Box::new(AffinityCookie::new(&**name))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_means_a_balancing() {
        for (affinity, expected) in [
            (Affinity::RoundRobin, Some(Balance::RoundRobin)),
            (Affinity::Ewma, Some(Balance::PeakEwma)),
            (Affinity::SourceIp, Some(Balance::Hash(HashKey::Client))),
            (Affinity::Header("X-User".to_owned()), Some(Balance::Hash(HashKey::Header("x-user".into())))),
            (
                Affinity::Cookie("JSESSIONID".to_owned()),
                Some(Balance::Cookie(Box::new(AffinityCookie::new("JSESSIONID")))),
            ),
            (Affinity::Cookie("a=b; Domain=evil".to_owned()), None),
            (Affinity::Header("a b".to_owned()), None),
        ] {
            assert_eq!(balance(&affinity).ok(), expected, "{affinity:?}");
        }
    }
}
