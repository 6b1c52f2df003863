//! What a node answers at a `healthCheckNodePort`.

use headwater_model::origin::NamespacedName;

/// An HTTP response; the same for every method and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthAnswer {
    pub status: u16,
    pub headers: [(&'static str, String); 3],
    pub body: String,
}

/// 200 where a load balancer may send traffic to this node, else 503.
///
/// `local_ready`: of the family that was asked at. Source: Kubernetes `pkg/proxy/healthcheck/service_health.go`, whose
/// bytes load balancers read.
pub fn health_answer(service: &NamespacedName, local_ready: u32, proxy_healthy: bool) -> HealthAnswer {
    // Names of the API are DNS labels: nothing in them needs escaping. Of others nothing is left that would break out.
    let plain = |text: &str| -> String { text.chars().filter(|c| !c.is_control() && !"\"\\".contains(*c)).collect() };
    let (namespace, name) = (plain(&service.namespace), plain(&service.name));
    HealthAnswer {
        status: if local_ready > 0 && proxy_healthy { 200 } else { 503 },
        headers: [
            ("Content-Type", "application/json".to_owned()),
            ("X-Content-Type-Options", "nosniff".to_owned()),
            ("X-Load-Balancing-Endpoint-Weight", local_ready.to_string()),
        ],
        body: format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
             \t\"localEndpoints\": {local_ready},\n\t\"serviceProxyHealthy\": {proxy_healthy}\n}}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_ready_endpoints_or_with_a_sick_proxy_answers_503() {
        let service = NamespacedName::new("shop", "web");
        for (local, healthy, status) in [(2, true, 200), (0, true, 503), (2, false, 503), (0, false, 503)] {
            let answer = health_answer(&service, local, healthy);
            assert_eq!(answer.status, status, "{local} {healthy}");
            assert_eq!(answer.headers[2], ("X-Load-Balancing-Endpoint-Weight", local.to_string()));
        }
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(health_answer(&service, 2, true).body, body);
    }
}
