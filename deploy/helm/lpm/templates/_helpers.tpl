{{- define "lpm.name" -}}
{{- .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-lpm" .Release.Name) (contains "lpm" .Release.Name)) | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "lpm.selector" -}}
app.kubernetes.io/name: lpm
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lpm.labels" -}}
{{ include "lpm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "lpm.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "lpm.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "lpm.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | required "serviceAccount.name: give the name of the account to use, or let serviceAccount.create be true" }}
{{- end -}}
{{- end }}

{{- /* Where Multus keeps results on the nodes; empty: not mounted. */ -}}
{{- define "lpm.multusResults" -}}
{{ .Values.multusResults | default (ternary "/var/lib/cni/multus/results" "" (eq .Values.preset "l2sm")) }}
{{- end }}

{{- /* The Unix socket in the container. A pod's own volume is open to all in the pod; the agent makes a
directory in it that is not. */ -}}
{{- define "lpm.socket" -}}
{{ ternary "/run/lpm/lpm.sock" "/run/lpm/agent/lpm.sock" (ne .Values.socket.hostPath "") }}
{{- end }}

{{- /* Keys of lpm.yaml that would part the agent from what the chart makes around it. */ -}}
{{- define "lpm.ownKeys" -}}
listen: set `listenAddress` and `port`
health.listen: set `healthPort`, which the probes use
reflector.listen: set `reflector.enabled` and `reflector.port`
web_config: set `webConfig.secret`
auth.kubernetes.enabled: set `auth.kubernetes`, which also grants the rights that it needs
socket.enabled: the commands in the agents' containers need the socket
socket.path: set `socket.hostPath`
names: give the names themselves, as the value `names`
netns: the agents watch their node's network
node_name: each agent gets its node's name
cni_results: set `cniResults`
multus_results: set `multusResults`
pins.enabled: set `pins.enabled`
pins.path: set `pins.hostPath`, the node's BPF file system, which the chart mounts
identity.kubernetes.scope: set `scope`, which also grants the rights that it needs
identity.kubernetes.kubeconfig: the agents use their service account
{{- end }}

{{- define "lpm.refuseOwnKeys" -}}
{{- range $key, $remedy := include "lpm.ownKeys" . | fromYaml -}}
{{- $at := $.Values.config -}}
{{- range splitList "." $key -}}
{{- $at = ternary (get (ternary $at dict (kindIs "map" $at)) .) "" (kindIs "map" $at) -}}
{{- end -}}
{{- if ne (toString $at) "" }}{{ fail (printf "the chart sets config.%s itself: %s" $key $remedy) }}{{ end -}}
{{- end -}}
{{- end }}

{{- /* lpm.yaml: what the values say, under what `config` says. */ -}}
{{- define "lpm.config" -}}
{{- include "lpm.refuseOwnKeys" . -}}
{{- if eq (int .Values.port) (int .Values.healthPort) -}}
{{- fail "healthPort is the same as port: give the probes a port of their own" -}}
{{- end -}}
{{- $config := dict "listen" (printf "%s:%v" .Values.listenAddress .Values.port) -}}
{{- $_ := set $config "health" (dict "listen" (printf "127.0.0.1:%v" .Values.healthPort)) -}}
{{- $_ := set $config "socket" (dict "enabled" true "path" (include "lpm.socket" .)) -}}
{{- if .Values.webConfig.secret }}{{ $_ := set $config "web_config" (printf "/etc/lpm-web/%s" .Values.webConfig.file) }}{{ end -}}
{{- if .Values.auth.kubernetes }}{{ $_ := set $config "auth" (dict "kubernetes" (dict "enabled" true)) }}{{ end -}}
{{- with .Values.preset }}{{ $_ := set $config "preset" . }}{{ end -}}
{{- if .Values.reflector.enabled }}{{ $_ := set $config "reflector" (dict "listen" (list (printf "%s:%v" .Values.listenAddress .Values.reflector.port))) }}{{ end -}}
{{- if ne .Values.scope "cluster" }}{{ $_ := set $config "identity" (dict "kubernetes" (dict "scope" .Values.scope)) }}{{ end -}}
{{- if .Values.pins.enabled }}{{ $_ := set $config "pins" (dict "enabled" true "path" "/run/bpf/lpm") }}{{ end -}}
{{- if .Values.names }}{{ $_ := set $config "names" "names.yaml" }}{{ end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) -}}
{{- end }}

{{- /* MiB: the agent's own with all names, also in the kernel; the maps as lpm.yaml makes them (256 B a
flow, 32 B a query, 16 KiB a row and stripe); and 16 for the small ones, the programs and the ring of
samples. */ -}}
{{- define "lpm.memory" -}}
{{- $c := .Values.config -}}
{{- $flows := mul (int (get $c "flows" | default 65536)) 256 -}}
{{- $queries := mul (int (get $c "queries" | default 16384)) 32 -}}
{{- $rows := mul (int (get $c "rows" | default 512)) (int (get $c "stripes" | default 2)) 16384 -}}
{{- add (int .Values.resources.agentMemoryMi) 16 (div (add $flows $queries $rows 1048575) 1048576) -}}Mi
{{- end }}
