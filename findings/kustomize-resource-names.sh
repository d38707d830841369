#!/bin/sh
# kustomize 5.7.1 (also as `kubectl kustomize` of 1.34): a name in a Role's resourceNames is taken for
# that of a generated ConfigMap of the same name, whatever the rule's resources are.
#
# Seen: a Role that allows `get` of the DaemonSet `agent` allows it of `agent-HASH` after the build,
# where `configMapGenerator` makes a ConfigMap `agent`: of a DaemonSet that does not exist. A prefix
# is the other way round: the DaemonSet gets it, and without such a ConfigMap the Role does not.
# kustomize's built-in nameReference of ConfigMap and Secret lists `rules/resourceNames` of Role and
# ClusterRole, without a look at `rules/resources`, and no other kind's does.
# Expected: resourceNames follow the objects of the resources that stand beside them.
# What helps: another name for the ConfigMap, and a nameReference of one's own for the DaemonSet.
#
# Ends with 0 while it is so, else with 1. Needs Go; writes into a temporary directory only.
set -eu
version=v5.7.1
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
GOBIN="$work/bin" GOFLAGS=-mod=mod go install "sigs.k8s.io/kustomize/kustomize/v5@$version"

cat > "$work/agent.yaml" <<'YAML'
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: agent}
rules:
- {apiGroups: [apps], resources: [daemonsets], resourceNames: [agent], verbs: [get]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers: [{name: agent, image: "agent:1"}]
YAML

# What the Role and the DaemonSet of the kustomization in $1 are called: `ROLE'S NAME, DAEMONSET'S NAME`.
names() {
    "$work/bin/kustomize" build "$1" | awk '
        /^kind:/ { kind = $2 }
        /^  name:/ && kind == "DaemonSet" { set = $2 }
        found { role = $2; found = 0 }
        /resourceNames:/ { found = 1 }
        END { print role ", " set }'
}

kustomization() {
    mkdir "$work/$1"
    cp "$work/agent.yaml" "$work/$1"
    { echo "resources: [agent.yaml]"; cat; } > "$work/$1/kustomization.yaml"
    names "$work/$1"
}

generated=$(echo 'configMapGenerator: [{name: agent, literals: [a=b]}]' | kustomization generated)
prefixed=$(echo 'namePrefix: x-' | kustomization prefixed)
echo "kustomize $version, with a generated ConfigMap of that name: $generated"
echo "kustomize $version, with a prefix: $prefixed"
case $generated in
"agent-"*", agent") ;;
*) echo "changed: the Role follows the DaemonSet"; exit 1 ;;
esac
[ "$prefixed" = "agent, x-agent" ] || { echo "changed: the Role gets the prefix"; exit 1; }
