//! Objects that Headwater makes for others: by server-side apply, found again by their labels.
//!
//! Kubernetes: Server-Side Apply (KEP-555).

use std::collections::BTreeMap;
use std::fmt;

use headwater_model::origin::ObjectKey;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

use super::connect::{ApiError, ApiServer};
use super::write::{FIELD_MANAGER, PAGE, REQUEST_LIMIT, resource_to_read, within};

/// Field manager of what shows Ingresses.
const INGRESS_MANAGER: &str = "headwater-ingress";

/// A kind of object that Headwater makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ManagedKind {
    ServiceAccount,
    RoleBinding,
    ClusterRoleBinding,
    Deployment,
    PodDisruptionBudget,
    Service,
    IngressClass,
    Frontend,
    Rule,
}

impl ManagedKind {
    /// Those of a gateway, in the order in which they are made: what others need comes first. Frontends and Rules are
    /// nothing that a gateway needs.
    pub const ALL: [Self; 7] = [
        Self::ServiceAccount,
        Self::RoleBinding,
        Self::ClusterRoleBinding,
        Self::Deployment,
        Self::PodDisruptionBudget,
        Self::Service,
        Self::IngressClass,
    ];

    /// `kind`, as in a manifest.
    pub fn as_str(self) -> &'static str {
        self.names().1
    }

    pub fn api_version(self) -> &'static str {
        self.names().0
    }

    /// Whether objects of the kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::ClusterRoleBinding | Self::IngressClass)
    }

    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("v1", "ServiceAccount", "serviceaccounts"),
            Self::RoleBinding => ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
            Self::ClusterRoleBinding => ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings"),
            Self::Deployment => ("apps/v1", "Deployment", "deployments"),
            Self::PodDisruptionBudget => ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::Service => ("v1", "Service", "services"),
            Self::IngressClass => ("networking.k8s.io/v1", "IngressClass", "ingressclasses"),
            Self::Frontend => ("crd.alauda.io/v1", "Frontend", "frontends"),
            Self::Rule => ("crd.alauda.io/v1", "Rule", "rules"),
        }
    }

    /// Labels of Frontends are applied on their own, and would take the rest of one with them.
    fn field_manager(self) -> &'static str {
        match self {
            Self::Frontend | Self::Rule => INGRESS_MANAGER,
            _ => FIELD_MANAGER,
        }
    }

    fn resource(self) -> ApiResource {
        let (api_version, kind, plural) = self.names();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }
}

/// Which object of the kinds that Headwater makes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagedKey {
    pub kind: ManagedKind,
    /// Empty for kinds of the whole cluster.
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ManagedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, slash) = (self.kind.as_str(), if self.namespace.is_empty() { "" } else { "/" });
        write!(f, "{kind} {}{slash}{}", self.namespace, self.name)
    }
}

impl ApiServer {
    /// Makes the object what `body` says, as far as our field manager is concerned: fields that we gave before and that
    /// are not in it go, unless somebody else keeps them. `apiVersion`, `kind` and the name are added.
    /// Returns it as it is then, status included.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Refused`], [`ApiError::Unavailable`].
    pub async fn apply_object(&self, key: &ManagedKey, mut body: Value) -> Result<Value, ApiError> {
        body["apiVersion"] = key.kind.api_version().into();
        body["kind"] = key.kind.as_str().into();
        body["metadata"]["name"] = key.name.as_str().into();
        if key.kind.is_namespaced() {
            body["metadata"]["namespace"] = key.namespace.as_str().into();
        }
        let parameters = PatchParams::apply(key.kind.field_manager()).force();
        let request = self.managed(key.kind, &key.namespace);
        let patch = Patch::Apply(&body);
        let applied = request.patch(&key.name, &parameters, &patch);
        let object = within(|| key.to_string(), REQUEST_LIMIT, applied).await?;
        Ok(as_json(object))
    }

    /// The object as it is, status included; `None`: there is none.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Unavailable`].
    pub async fn managed_object(&self, key: &ManagedKey) -> Result<Option<Value>, ApiError> {
        let api = self.managed(key.kind, &key.namespace);
        let object = within(|| key.to_string(), REQUEST_LIMIT, api.get_opt(&key.name)).await?;
        Ok(object.map(as_json))
    }

    /// Whether an object that Headwater reads exists. Without its kind it does not.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Unavailable`].
    pub async fn exists(&self, key: &ObjectKey) -> Result<bool, ApiError> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.id.namespace, &resource_to_read(key.kind));
        match within(|| key.to_string(), REQUEST_LIMIT, api.get_metadata(&key.id.name)).await {
            Ok(_) => Ok(true),
            Err(ApiError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind that a label selector finds, anywhere, with `metadata.annotations` of each.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`], [`ApiError::Unavailable`].
    pub async fn managed_objects(
        &self,
        kind: ManagedKind,
        selector: &str,
    ) -> Result<Vec<(ManagedKey, BTreeMap<String, String>)>, ApiError> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind.resource());
        let mut parameters = ListParams::default().labels(selector).limit(PAGE);
        let mut found = Vec::new();
        loop {
            let what = || format!("list of {} with {selector}", kind.as_str());
            let page = within(what, REQUEST_LIMIT, api.list_metadata(&parameters)).await?;
            found.extend(page.items.into_iter().map(|object| {
                let metadata = object.metadata;
                let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
                (ManagedKey { kind, namespace, name }, metadata.annotations.unwrap_or_default())
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => return Ok(found),
            }
        }
    }

    /// Deletes an object, and with it what it owns; one that is not there is no error. With `uid` only if it is this one.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] if it is another one, [`ApiError::Forbidden`], [`ApiError::Unavailable`].
    pub async fn delete_object(&self, key: &ManagedKey, uid: Option<String>) -> Result<(), ApiError> {
        let preconditions = uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None });
        let propagation_policy = Some(PropagationPolicy::Background);
        let parameters = DeleteParams { preconditions, propagation_policy, ..DeleteParams::default() };
        let api = self.managed(key.kind, &key.namespace);
        match within(|| key.to_string(), REQUEST_LIMIT, api.delete(&key.name, &parameters)).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn managed(&self, kind: ManagedKind, namespace: &str) -> Api<DynamicObject> {
        let resource = kind.resource();
        match kind.is_namespaced() {
            true => Api::namespaced_with(self.client.clone(), namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        }
    }
}

fn as_json(object: DynamicObject) -> Value {
    serde_json::to_value(object).expect("it came as JSON")
}
