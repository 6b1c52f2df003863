//! The command line of a container: which program an image stands for, its environment, its file system.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, Pod};

/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where a container finds the program of its image.
const PROGRAM: &str = "/var/run/headwater";

/// What a container is told about its pod.
#[derive(Clone, Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) pod: &'a Pod,
    pub(super) node: &'a str,
    pub(super) host_ip: String,
    pub(super) pod_ips: Vec<String>,
    /// The directory with token, authority and namespace; `None` when the pod wants none.
    pub(super) account: Option<&'a Path>,
    /// The headwater program.
    pub(super) headwater: &'a Path,
}

/// The last part of an image's name, without tag and digest.
fn image_name(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let last = image.rsplit_once('/').map_or(image, |(_, last)| last);
    last.split_once(':').map_or(last, |(name, _)| name)
}

impl Surroundings<'_> {
    /// The command that becomes the container's program, inside a mount namespace of its own.
    ///
    /// # Errors
    /// When the image or something about the environment is unknown here.
    pub(super) fn command(&self, container: &Container) -> Result<Command> {
        let environment = self.environment(container)?;
        let words = self.words(container, &environment)?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-ec", &self.script(container), "sh"]);
        command.arg(self.headwater).arg(self.account.unwrap_or(Path::new("")));
        // As another user a process would forget whom to die with.
        command.args(["setpriv", "--pdeathsig", "KILL", "--", "env", "-i"]);
        command.args(environment.iter().map(|(name, value)| format!("{name}={value}")));
        command.args(words);
        Ok(command)
    }

    /// Mounts what the container sees, takes away what it may not do, and becomes it. `$1` is the headwater program,
    /// `$2` the directory of the service account.
    fn script(&self, container: &Container) -> String {
        let mut script =
            format!("mount -t tmpfs -o mode=755 tmpfs /var/run\ntouch {PROGRAM}\nmount --bind \"$1\" {PROGRAM}\n");
        if self.account.is_some() {
            script += &format!("mkdir -p {ACCOUNT}\nmount --bind \"$2\" {ACCOUNT}\n");
        }
        let context = container.security_context.as_ref();
        if context.and_then(|context| context.read_only_root_filesystem) == Some(true) {
            script += "mount -o remount,bind,ro /\nmount -o remount,ro /var/run\n";
        }
        script += "shift 2\nexec";
        let pod = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let user = context.and_then(|it| it.run_as_user).or(pod.and_then(|it| it.run_as_user));
        let group = context.and_then(|it| it.run_as_group).or(pod.and_then(|it| it.run_as_group));
        let capabilities = context.and_then(|context| context.capabilities.as_ref());
        let dropped = capabilities.iter().flat_map(|it| it.drop.iter().flatten()).any(|name| name == "ALL");
        let mut set = Vec::new();
        if user.is_some() || group.is_some() {
            let group = group.unwrap_or_default();
            set.push(format!("--reuid {} --regid {group} --clear-groups", user.unwrap_or_default()));
        }
        if dropped {
            let added = capabilities.iter().flat_map(|it| it.add.iter().flatten());
            let added: String = added.map(|name| format!(",+{}", name.to_lowercase())).collect();
            set.push(format!("--inh-caps -all --bounding-set -all{added}"));
        }
        if context.and_then(|context| context.allow_privilege_escalation) == Some(false) {
            set.push("--no-new-privs".to_owned());
        }
        if !set.is_empty() {
            script += &format!(" setpriv {} --", set.join(" "));
        }
        script + " \"$@\""
    }

    fn words(&self, container: &Container, environment: &BTreeMap<String, String>) -> Result<Vec<OsString>> {
        let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
            words.iter().flatten().map(|word| expand(word, environment)).collect()
        };
        let image = container.image.as_deref().unwrap_or_default();
        let (mut words, mut arguments) = (expanded(&container.command), expanded(&container.args));
        let known = match image_name(image) {
            "headwater" => vec![PROGRAM.to_owned()],
            "whoami" => vec![PROGRAM.to_owned(), "whoami".to_owned()],
            other => bail!("image {image}: no program stands for {other}; there are headwater and whoami"),
        };
        if words.is_empty() {
            if image_name(image) == "whoami" && arguments.is_empty() {
                arguments = vec!["--name".to_owned(), environment["HOSTNAME"].clone()];
            }
            words = known;
        } else if Path::new(&words[0]).file_name().is_some_and(|name| name == "headwater") {
            PROGRAM.clone_into(&mut words[0]);
        }
        words.extend(arguments);
        Ok(words.into_iter().map(OsString::from).collect())
    }

    fn environment(&self, container: &Container) -> Result<BTreeMap<String, String>> {
        let name = self.pod.metadata.name.clone().unwrap_or_default();
        let mut environment: BTreeMap<String, String> = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/"),
            ("HOSTNAME", &name),
            ("KUBERNETES_SERVICE_HOST", super::SERVICE_V4),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for variable in container.env.iter().flatten() {
            let value = match (&variable.value, &variable.value_from) {
                (_, Some(source)) => {
                    let field = source.field_ref.as_ref();
                    let field = field.with_context(|| format!("env {}: only fieldRef is known here", variable.name))?;
                    self.field(&field.field_path)?
                }
                (value, None) => expand(value.as_deref().unwrap_or_default(), &environment),
            };
            environment.insert(variable.name.clone(), value);
        }
        Ok(environment)
    }

    fn field(&self, path: &str) -> Result<String> {
        let (metadata, spec) = (&self.pod.metadata, self.pod.spec.as_ref());
        let value = match path {
            "metadata.name" => metadata.name.clone(),
            "metadata.namespace" => metadata.namespace.clone(),
            "metadata.uid" => metadata.uid.clone(),
            "spec.nodeName" => Some(self.node.to_owned()),
            "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
            "status.hostIP" => Some(self.host_ip.clone()),
            "status.podIP" => self.pod_ips.first().cloned(),
            "status.podIPs" => Some(self.pod_ips.join(",")),
            other => {
                let keyed = other.strip_suffix("']").and_then(|path| path.split_once("['"));
                let (map, key) = match keyed {
                    Some(("metadata.labels", key)) => (metadata.labels.as_ref(), key),
                    Some(("metadata.annotations", key)) => (metadata.annotations.as_ref(), key),
                    _ => bail!("fieldRef {other} is unknown here"),
                };
                Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default())
            }
        };
        Ok(value.unwrap_or_default())
    }
}

/// Replaces `$(NAME)` of what is known, and `$$` by `$`, as the API says of `command`, `args` and `env`.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some(place) = rest.find('$') {
        expanded.push_str(&rest[..place]);
        let after = &rest[place + 1..];
        let name = after.strip_prefix('(').and_then(|name| name.split_once(')'));
        if let Some(tail) = after.strip_prefix('$') {
            expanded.push('$');
            rest = tail;
        } else if let Some((value, tail)) = name.and_then(|(name, tail)| Some((environment.get(name)?, tail))) {
            expanded.push_str(value);
            rest = tail;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded + rest
}

/// The headwater program: `$HEADWATER_BIN`, else that of the workspace, which is built when it is not up to date.
///
/// # Errors
/// When it is absent or does not build.
pub fn headwater() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HEADWATER_BIN").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "HEADWATER_BIN={} is no file", path.display());
        return Ok(path);
    }
    // TARGET/PROFILE/deps/TEST
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).context("folder of the test's profile")?;
    let (target, profile) = (folder.parent().context("target directory")?, folder.file_name());
    let profile = match profile.context("name of the profile")?.to_string_lossy() {
        name if name == "debug" => "dev".to_owned(),
        name => name.into_owned(),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Whoever waits for it may be gone before it ends.
    let mut build = Command::new("setpriv");
    build
        .args(["--pdeathsig", "KILL", "--"])
        .arg(cargo)
        .args(["build", "--quiet", "--package", "headwater", "--profile", &profile, "--target-dir"])
        .arg(target);
    let output = build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).output().context("run cargo")?;
    ensure!(output.status.success(), "build of headwater: {}", String::from_utf8_lossy(&output.stderr));
    Ok(folder.join("headwater"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_image_is_known_by_the_last_part_of_its_name() {
        for image in ["whoami", "whoami:1", "example.com:5000/team/whoami:1", "a/whoami@sha256:00"] {
            assert_eq!(image_name(image), "whoami", "{image}");
        }
    }

    #[test]
    fn variables_that_are_known_are_expanded() {
        let environment = [("A".to_owned(), "1".to_owned())].into();
        for (text, expected) in
            [("$(A)$(A)", "11"), ("$(B)$A", "$(B)$A"), ("$$(A)$", "$(A)$"), ("x$(A", "x$(A"), ("", "")]
        {
            assert_eq!(expand(text, &environment), expected, "{text}");
        }
    }

    #[test]
    fn a_container_gets_its_arguments_and_fields_and_loses_its_rights() {
        let pod = json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u", "labels": { "app": "a" } },
            "spec": { "containers": [{
                "name": "c", "image": "whoami", "args": ["--name=$(POD)/$(APP)@$(IP)"],
                "env": [
                    { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                    { "name": "APP", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
                    { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
                ],
                "securityContext": {
                    "runAsUser": 1, "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
                    "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                },
            }] },
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let surroundings = Surroundings {
            pod: &pod,
            node: "node",
            host_ip: "172.18.1.2".to_owned(),
            pod_ips: vec!["10.244.1.2".to_owned()],
            account: None,
            headwater: Path::new("/bin/headwater"),
        };
        let command = surroundings.command(&pod.spec.as_ref().unwrap().containers[0]).unwrap();
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        let text = words.join(" ");
        assert!(text.ends_with("/var/run/headwater whoami --name=p/a@10.244.1.2"), "{text}");
        assert!(
            text.contains(
                "setpriv --reuid 1 --regid 0 --clear-groups --inh-caps -all --bounding-set -all,+net_bind_service \
                 --no-new-privs -- \"$@\""
            ),
            "{text}"
        );
        assert!(text.contains("remount,bind,ro") && !text.contains("serviceaccount"), "{text}");
    }
}
