#!/bin/sh
# Renders from the chart what is committed of it: the kustomize base, the overlays' parts, Azure's
# rule groups. `deploy/render.sh OUTPUT` puts them elsewhere, for the test that holds them against
# each other. Needs helm 3, which `cargo xtask setup --only cluster` builds into target/cluster/bin.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
helm=$(PATH="$here/../target/cluster/bin:$PATH" command -v helm)

render() {
    file=$1
    shift
    mkdir -p "$(dirname "$out/$file")"
    { echo "# Rendered from deploy/helm/lpm by deploy/render.sh: change it there."
      "$helm" template lpm "$here/helm/lpm" --namespace lpm "$@"; } > "$out/$file"
}

# The value of the key $1 of a ConfigMap, each line indented by four.
text() {
    sed -n "/^  $1: |\$/,\$ { s/^    //; t print; b; :print; p; }"
}

render kustomize/base/lpm.yaml --skip-tests
# kustomize makes the ConfigMap of lpm.yaml itself, with a name that follows its content: that, and
# no checksum, restarts the agents. It is not named like the DaemonSet: kustomize takes a Role's
# resourceNames for the ConfigMap's, and the agents could not ask for their DaemonSet.
awk '/^---$/ { held = $0; next }
     held != "" { skip = /templates\/configmap.yaml$/; if (!skip) print held; held = "" }
     !skip' "$out/kustomize/base/lpm.yaml" |
    sed -e '/^      annotations:$/,/checksum\/config:/d' \
        -e '/^          configMap:$/ { n; s/name: lpm$/name: lpm-config/; }' > "$out/base.yaml"
mv "$out/base.yaml" "$out/kustomize/base/lpm.yaml"
mkdir -p "$out/kustomize/base/config"
"$helm" template lpm "$here/helm/lpm" --namespace lpm --show-only templates/configmap.yaml |
    text 'lpm\.yaml' > "$out/kustomize/base/config/lpm.yaml"
render kustomize/overlays/aks/podmonitor.yaml --show-only templates/podmonitor.yaml --set podMonitor.azure=true
render kustomize/overlays/l2sm/rules.yaml --show-only templates/rules.yaml --set rules.configMap=true
"$helm" template lpm "$here/helm/lpm" --namespace lpm --show-only templates/azure-rules.yaml --set rules.azure=true |
    text 'prometheusRuleGroups\.json' > "$out/azure.json"
mkdir -p "$out/azure"
mv "$out/azure.json" "$out/azure/prometheusRuleGroups.json"
