{{- define "headwater.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "headwater.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "headwater.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "headwater.labels" -}}
app.kubernetes.io/name: {{ include "headwater.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* (dict "root" $ "role" "gateway") */ -}}
{{- define "headwater.selector" -}}
app.kubernetes.io/name: {{ include "headwater.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "headwater.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest }}
{{- else -}}
{{ printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The image with the program nft. */ -}}
{{- define "headwater.nodeImage" -}}
{{- $own := .Values.node.image -}}
{{- $repository := default (printf "%s-node" .Values.image.repository) $own.repository -}}
{{- if $own.digest -}}
{{ printf "%s@%s" $repository $own.digest }}
{{- else -}}
{{ printf "%s:%s" $repository (default .Chart.AppVersion (default .Values.image.tag $own.tag)) }}
{{- end -}}
{{- end -}}

{{- /* (dict "root" $ "command" list): what containers that program the kernel have in common. */ -}}
{{- define "headwater.nodeContainer" -}}
{{- $node := .root.Values.node -}}
image: {{ include "headwater.nodeImage" .root }}
imagePullPolicy: {{ default .root.Values.image.pullPolicy $node.image.pullPolicy }}
args:
  {{- range .command }}
  - {{ . }}
  {{- end }}
env:
  {{- include "headwater.env" .root | trim | nindent 2 }}
  {{- with $node.apiServer.host }}
  # Not by the Service kubernetes, which is this program's own work.
  - name: KUBERNETES_SERVICE_HOST
    value: {{ . | quote }}
  - name: KUBERNETES_SERVICE_PORT
    value: {{ $node.apiServer.port | quote }}
  {{- end }}
  {{- with $node.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml $node.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  # nftables, links, routes, rules, and parameters of the node's network; frames of ARP and NDP, router advertisements.
  capabilities: {drop: [ALL], add: [NET_ADMIN{{ if $node.announce }}, NET_RAW{{ end }}]}
volumeMounts:
  - {name: proc-sys-net, mountPath: /host/proc/sys/net}
{{- end -}}

{{- define "headwater.settingsName" -}}
{{- default (include "headwater.fullname" .) .Values.settings.name -}}
{{- end -}}

{{- /* Whether GatewaySettings say what is listened to; else flags do. */ -}}
{{- define "headwater.hasSettings" -}}
{{- if or .Values.settings.create .Values.ingressClass.parameters }}true{{ end -}}
{{- end -}}

{{- /* Whether a listener's port is below 1024. */ -}}
{{- define "headwater.lowPorts" -}}
{{- range .Values.gateway.listeners }}{{ if lt (int .port) 1024 }}true{{ end }}{{ end -}}
{{- end -}}

{{- define "headwater.adminAddress" -}}
{{- default (ternary "127.0.0.1" "0.0.0.0" .Values.gateway.hostNetwork) .Values.gateway.adminAddress -}}
{{- end -}}

{{- /* What the values ask for and cannot have. */ -}}
{{- define "headwater.validate" -}}
{{- $gateway := .Values.gateway -}}
{{- if and (include "headwater.lowPorts" .) $gateway.hostNetwork (eq $gateway.lowPortsOnHost "refuse") -}}
{{- fail "gateway.listeners has a port below 1024 on the host's network, where pods may not set net.ipv4.ip_unprivileged_port_start: use ports from 1024 on, or gateway.hostPorts in place of gateway.hostNetwork, or set gateway.lowPortsOnHost to root or node" -}}
{{- end -}}
{{- if and $gateway.transparent (not $gateway.hostNetwork) -}}
{{- fail "gateway.transparent needs gateway.hostNetwork: what endpoints answer to clients comes back to the node" -}}
{{- end -}}
{{- if and $gateway.hostNetwork $gateway.hostPorts -}}
{{- fail "gateway.hostNetwork and gateway.hostPorts exclude each other" -}}
{{- end -}}
{{- if and .Values.settings.create .Values.ingressClass.parameters -}}
{{- fail "settings.create and ingressClass.parameters exclude each other" -}}
{{- end -}}
{{- if not (include "headwater.hasSettings" .) -}}
{{- range $protocol := list "HTTP" "HTTPS" -}}
{{- $count := 0 -}}
{{- range $gateway.listeners }}{{ if eq .protocol $protocol }}{{ $count = add1 $count }}{{ end }}{{ end -}}
{{- if ne (int $count) 1 -}}
{{- fail (printf "gateway.listeners has %d listeners with protocol %s; without GatewaySettings there is exactly one: set settings.create" (int $count) $protocol) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.webhook.enabled (not .Values.controller.enabled) -}}
{{- fail "webhook.enabled needs controller.enabled: set webhook.enabled to false" -}}
{{- end -}}
{{- if and .Values.controller.publishService .Values.controller.publishAddresses -}}
{{- fail "controller.publishService and controller.publishAddresses exclude each other" -}}
{{- end -}}
{{- if and $gateway.autoscaling.enabled (ne $gateway.kind "Deployment") -}}
{{- fail "gateway.autoscaling.enabled needs gateway.kind Deployment" -}}
{{- end -}}
{{- if and .Values.watchNamespaces .Values.watchNamespaceSelector -}}
{{- fail "watchNamespaces and watchNamespaceSelector exclude each other" -}}
{{- end -}}
{{- $namespaces := include "headwater.namespaces" . | fromJsonArray -}}
{{- range $value, $id := dict "defaultBackendService" .Values.defaultBackendService "controller.publishService" .Values.controller.publishService "ingressClass.parameters.namespace" (.Values.ingressClass.parameters.namespace | default "") -}}
{{- $namespace := first (splitList "/" $id) -}}
{{- if and $namespaces $namespace (not (has $namespace $namespaces)) -}}
{{- fail (printf "%s names namespace %s, which is neither in watchNamespaces nor the release's own: add it" $value $namespace) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $gateway.secrets.scope "namespaces") (not $gateway.secrets.namespaces) (not .Values.watchNamespaces) -}}
{{- fail "gateway.secrets.scope is namespaces, and neither gateway.secrets.namespaces nor watchNamespaces names one" -}}
{{- end -}}
{{- end -}}

{{- /* Flags that choose objects, the same for both roles. */ -}}
{{- define "headwater.selection" -}}
{{- $values := .Values -}}
- --ingress-class={{ $values.ingressClass.name }}
{{- range $values.ingressClass.others }}
- --ingress-class={{ . }}
{{- end }}
{{- with $values.takeOverClass }}
- --take-over-class={{ . }}
{{- end }}
{{- range $values.albs }}
- --alb={{ . }}
{{- end }}
{{- with $values.watchNamespaces }}
- --watch-namespaces={{ join "," . }}
{{- end }}
{{- with $values.watchNamespaceSelector }}
- --watch-namespace-selector={{ . }}
{{- end }}
{{- if $values.watchIngressWithoutClass }}
- --watch-ingress-without-class
{{- end }}
{{- with $values.nginxConfigMap }}
- --configmap={{ . }}
{{- end }}
{{- with $values.defaultBackendService }}
- --default-backend-service={{ . }}
{{- end }}
{{- with $values.defaultSslCertificate }}
- --default-ssl-certificate={{ . }}
{{- end }}
{{- if not (include "headwater.hasSettings" .) }}
{{- range $values.gateway.listeners }}
- --{{ lower .protocol }}-port={{ .port }}
{{- end }}
{{- end }}
{{- $published := "" }}
{{- range $values.gateway.listeners }}
{{- if and (eq .protocol "HTTPS") (not $published) }}
{{- $published = ternary .port .servicePort (and $values.gateway.hostNetwork (not $values.gateway.service.enabled)) }}
{{- end }}
{{- end }}
{{- with $published }}
- --published-https-port={{ . }}
{{- end }}
{{- end -}}

{{- /* Environment by which a pod knows itself. */ -}}
{{- define "headwater.env" -}}
{{- range $name, $field := dict "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_UID" "metadata.uid" "NODE_NAME" "spec.nodeName" }}
- name: {{ $name }}
  valueFrom: {fieldRef: {fieldPath: {{ $field }}}}
{{- end }}
{{- end -}}

{{- define "headwater.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "headwater.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* (dict "root" $ "role" "gateway") */ -}}
{{- define "headwater.topologySpread" -}}
{{- $default := list -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" -}}
{{- $default = append $default (dict "maxSkew" 1 "topologyKey" . "whenUnsatisfiable" "ScheduleAnyway") -}}
{{- end -}}
{{- $selector := include "headwater.selector" . | fromYaml -}}
{{- range default $default (index .root.Values .role "topologySpreadConstraints") }}
- {{ merge (dict) . (dict "labelSelector" (dict "matchLabels" $selector)) | toYaml | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{- /* Namespaces that both roles read in, as JSON: empty for all. */ -}}
{{- define "headwater.namespaces" -}}
{{- $found := list -}}
{{- with .Values.watchNamespaces -}}
{{- $found = concat (append . $.Release.Namespace) (include "headwater.albNamespaces" $ | fromJsonArray) | uniq | sortAlpha -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- /* What both roles read wherever they look. */ -}}
{{- define "headwater.readRules" -}}
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch]
- apiGroups: [headwater.dev]
  resources: [gatewaysettings]
  verbs: [get, list, watch]
{{- end -}}

{{- /* What both roles read in the namespace of an ALB2. */ -}}
{{- define "headwater.albRules" -}}
- apiGroups: [crd.alauda.io]
  resources: [alaudaloadbalancer2, frontends, rules]
  verbs: [get, list, watch]
{{- end -}}

{{- /* Namespaces of the ALB2s, as JSON. */ -}}
{{- define "headwater.albNamespaces" -}}
{{- $found := list -}}
{{- range .Values.albs -}}
{{- $found = append $found (splitList "/" . | first) -}}
{{- end -}}
{{- toJson ($found | uniq | sortAlpha) -}}
{{- end -}}

{{- /* What the controller writes wherever it looks. */ -}}
{{- define "headwater.writeRules" -}}
- apiGroups: [networking.k8s.io]
  resources: [ingresses/status]
  verbs: [patch]
- apiGroups: [headwater.dev]
  resources: [gatewaysettings/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, get, patch]
{{- end -}}

{{- /* (dict "path" "/healthz" "admin" "0.0.0.0"): kubelets reach what listens on loopback alone only of pods on the host's network. */ -}}
{{- define "headwater.probe" -}}
{path: {{ .path }}, port: 9180{{ if has .admin (list "127.0.0.1" "[::1]") }}, host: {{ .admin | trimAll "[]" | quote }}{{ end }}}
{{- end -}}

{{- /* (dict "root" $ "role" "gateway"): where pods run. */ -}}
{{- define "headwater.scheduling" -}}
{{- $values := index .root.Values .role -}}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if not (or .daemonSet (eq (default "" $values.kind) "DaemonSet")) }}
topologySpreadConstraints:
  {{- include "headwater.topologySpread" . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* (dict "root" $ "name" n "subject" s "rules" list): a ClusterRole and its binding. */ -}}
{{- define "headwater.clusterGrant" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}
  labels:
    {{- include "headwater.labels" .root | nindent 4 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "headwater.labels" .root | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .name }}}
subjects:
  - {{ toYaml .subject | nindent 4 | trim }}
{{- end -}}

{{- /* The same in one namespace: (dict ... "namespace" ns "suffix" "-lease"). */ -}}
{{- define "headwater.grant" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}{{ .suffix }}
  namespace: {{ .namespace }}
  labels:
    {{- include "headwater.labels" .root | nindent 4 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}{{ .suffix }}
  namespace: {{ .namespace }}
  labels:
    {{- include "headwater.labels" .root | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .name }}{{ .suffix }}}
subjects:
  - {{ toYaml .subject | nindent 4 | trim }}
{{- end -}}

{{- /* What all webhooks of the configuration have in common. */ -}}
{{- define "headwater.webhook" -}}
failurePolicy: {{ .Values.webhook.failurePolicy }}
timeoutSeconds: {{ .Values.webhook.timeoutSeconds }}
matchPolicy: Equivalent
sideEffects: None
admissionReviewVersions: [v1]
clientConfig:
  service:
    namespace: {{ .Release.Namespace }}
    name: {{ include "headwater.fullname" . }}-webhook
    path: /validate
    port: 443
  {{- with .Values.webhook.caBundle }}
  caBundle: {{ b64enc . }}
  {{- end }}
{{- end -}}
