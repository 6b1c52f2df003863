//! Taking back all that was written, before Headwater is removed.

use headwater_kube_io::{ApiError, ApiServer};
use headwater_model::origin::Kind;
use serde_json::Value;
use tokio::task::JoinSet;

/// Writes under way at once.
const WRITES: usize = 8;

/// Empties every status that our field manager owns something of. What other controllers wrote stays.
///
/// `namespaces`: empty for all. No controller may be running: it would write them again. Returns how many.
///
/// # Errors
/// The first error, after all others were tried: running it again goes on where it ended.
pub async fn clear_all(server: &ApiServer, namespaces: &[String]) -> Result<usize, ApiError> {
    let (mut cleared, mut first_error) = (0, None);
    let mut under_way = JoinSet::new();
    let mut end = |result: Result<Result<(), ApiError>, tokio::task::JoinError>| match result {
        Ok(Ok(())) => cleared += 1,
        // Deleted meanwhile.
        Ok(Err(ApiError::NotFound { .. })) | Err(_) => {}
        Ok(Err(error)) => {
            first_error.get_or_insert(error);
        }
    };
    for kind in [Kind::Ingress, Kind::GatewaySettings, Kind::Alb2, Kind::Frontend] {
        let of_alb = matches!(kind, Kind::Alb2 | Kind::Frontend);
        let ours = match server.with_our_status(kind, namespaces).await {
            // Where ALB2s are not defined, or left to others, none has a status of ours.
            Err(ApiError::NotFound { .. } | ApiError::Forbidden { .. }) if of_alb => continue,
            ours => ours?,
        };
        for key in ours {
            if under_way.len() >= WRITES
                && let Some(result) = under_way.join_next().await
            {
                end(result);
            }
            let server = server.clone();
            under_way.spawn(async move { server.apply_status(&key, Value::Null, true).await });
        }
    }
    while let Some(result) = under_way.join_next().await {
        end(result);
    }
    first_error.map_or(Ok(cleared), Err)
}
