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

render kustomize/base/lpm.yaml --skip-tests
render kustomize/overlays/aks/podmonitor.yaml --show-only templates/podmonitor.yaml --set podMonitor.azure=true
render kustomize/overlays/l2sm/rules.yaml --show-only templates/rules.yaml --set rules.configMap=true
# The document is the value of one key of a ConfigMap, each line indented by four.
"$helm" template lpm "$here/helm/lpm" --namespace lpm --show-only templates/azure-rules.yaml --set rules.azure=true |
    sed -n '/^  prometheusRuleGroups.json: |$/,$ { s/^    //; t print; b; :print; p; }' > "$out/azure.json"
mkdir -p "$out/azure"
mv "$out/azure.json" "$out/azure/prometheusRuleGroups.json"
