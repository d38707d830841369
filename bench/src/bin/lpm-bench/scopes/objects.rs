//! Objects as a cluster has them: sizes matter here, so they carry what real ones carry.

use serde_json::{Value, json};

/// Images that a node lists: as many as the kubelet does at most (`nodeStatusMaxImages`).
const IMAGES: u32 = 50;

/// The address of a node.
fn node_address(number: u32) -> String {
    format!("198.19.{}.{}", number / 250, number % 250 + 1)
}

/// A node's range of pods.
fn range(number: u32) -> String {
    format!("fd00::{:x}:0/112", number + 1)
}

/// The address of a pod of a node.
pub(crate) fn address(node: u32, number: u32) -> String {
    format!("fd00::{:x}:{:x}", node + 1, number + 1)
}

/// The name of a node.
pub(crate) fn node_name(number: u32) -> String {
    format!("aks-pool1-31415926-vmss{number:06}")
}

/// A node without its status.
pub(crate) fn node(number: u32) -> Value {
    let name = node_name(number);
    json!({
        "metadata": {"name": name, "labels": {
            "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": "Standard_D8s_v5",
            "topology.kubernetes.io/region": "westeurope", "topology.kubernetes.io/zone": "westeurope-1",
            "agentpool": "pool1", "kubernetes.azure.com/mode": "user",
        }, "annotations": {
            "node.alpha.kubernetes.io/ttl": "0",
            "volumes.kubernetes.io/controller-managed-attach-detach": "true",
        }},
        "spec": {"podCIDR": range(number), "podCIDRs": [range(number)],
            "providerID": format!("azure:///subscriptions/00000000-0000-4000-8000-000000000000/{name}")},
    })
}

/// What its kubelet makes beside it.
pub(crate) fn csi_node(number: u32) -> Value {
    let name = node_name(number);
    let driver = |driver: &str| json!({"name": driver, "nodeID": name, "topologyKeys": ["topology.kubernetes.io/zone"]});
    json!({"metadata": {"name": name},
        "spec": {"drivers": [driver("disk.csi.example.com"), driver("file.csi.example.com")]}})
}

/// What a kubelet writes every five minutes.
pub(crate) fn node_status(number: u32, beat: u32) -> Value {
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason,
            "message": format!("kubelet reports {reason} for this node, {kind}"),
            "lastHeartbeatTime": format!("2026-01-01T00:{:02}:{:02}Z", beat / 60 % 60, beat % 60),
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let images = (0..IMAGES).map(|image| {
        json!({"sizeBytes": 31_415_926 + image, "names": [
            format!("registry.example.com/team/image-{image}@sha256:{:064x}", 0xfeed + image),
            format!("registry.example.com/team/image-{image}:v1.{image}.0")]})
    });
    let capacity = json!({"cpu": "8", "memory": "32863868Ki", "pods": "110",
        "ephemeral-storage": "129886128Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "0"});
    json!({
        "capacity": capacity, "allocatable": capacity,
        "addresses": [{"type": "InternalIP", "address": node_address(number)},
            {"type": "Hostname", "address": node_name(number)}],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady")],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "images": images.collect::<Vec<_>>(),
        "nodeInfo": {"architecture": "amd64", "bootID": "b", "containerRuntimeVersion": "containerd://2.0",
            "kernelVersion": "6.8", "kubeProxyVersion": "v1.34.4", "kubeletVersion": "v1.34.4",
            "machineID": "m", "operatingSystem": "linux", "osImage": "Linux", "systemUUID": "s"},
    })
}

/// Who owns an object.
fn owner(kind: &str, name: &str) -> Value {
    json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "controller": true,
        "blockOwnerDeletion": true, "uid": format!("00000000-0000-4000-8000-{:012}", name.len())}])
}

/// A pod of a deployment, before it has a node.
pub(crate) fn pod(name: &str, workload: u32) -> Value {
    let app = format!("workload-{workload}");
    let env: Vec<Value> = (0..8)
        .map(|number| json!({"name": format!("SETTING_{number}"), "value": "a value of some length"}))
        .collect();
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10});
    json!({
        "metadata": {"name": name, "labels": {
            "app.kubernetes.io/name": app, "app.kubernetes.io/instance": app, "team": "blue",
            "pod-template-hash": "5c9d7f6b8"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
            "ownerReferences": owner("ReplicaSet", &format!("{app}-5c9d7f6b8"))},
        "spec": {"serviceAccountName": "default", "containers": [{
            "name": "main", "image": "registry.example.com/team/image:v1.0.0", "env": env,
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "livenessProbe": probe, "readinessProbe": probe,
            "volumeMounts": [{"name": "config", "mountPath": "/etc/app", "readOnly": true},
                {"name": "kube-api-access", "readOnly": true,
                 "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
            "volumes": [{"name": "config", "configMap": {"name": "config"}},
                {"name": "kube-api-access", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    {"configMap": {"name": "kube-root-ca.crt",
                        "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300}]},
    })
}

/// What the kubelet writes of a pod that starts (without address), and of one that runs.
pub(crate) fn pod_status(address: Option<&str>) -> Value {
    let ready = if address.is_some() { "True" } else { "False" };
    let conditions: Vec<Value> = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ]
    .iter()
    .map(
        |kind| json!({"type": kind, "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}),
    )
    .collect();
    let state = match address {
        Some(_) => json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}),
        None => json!({"waiting": {"reason": "ContainerCreating"}}),
    };
    let ips: Vec<Value> = address.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "phase": if address.is_some() { "Running" } else { "Pending" },
        "podIP": address, "podIPs": ips, "conditions": conditions, "qosClass": "Burstable",
        "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [{"name": "main", "ready": address.is_some(), "restartCount": 0,
            "started": address.is_some(), "state": state,
            "image": "registry.example.com/team/image:v1.0.0",
            "imageID": format!("registry.example.com/team/image@sha256:{:064x}", 0xfeed),
            "containerID": format!("containerd://{:064x}", 0xbeef)}],
    })
}

/// A service of a workload.
pub(crate) fn service(number: u32) -> Value {
    let app = format!("workload-{number}");
    json!({
        "metadata": {"name": app, "labels": {"app.kubernetes.io/name": app}},
        "spec": {"selector": {"app.kubernetes.io/name": app},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// The endpoint slice of a workload's service, with these addresses.
pub(crate) fn slice(number: u32, addresses: &[String]) -> Value {
    let endpoint = |address: &String| {
        json!({"addresses": [address], "nodeName": node_name(number),
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("pod-{address}"),
                "uid": "00000000-0000-4000-8000-000000000000"}})
    };
    json!({
        "metadata": {"name": format!("workload-{number}-x"), "labels": {
            "kubernetes.io/service-name": format!("workload-{number}"),
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
        "addressType": "IPv6", "ports": [{"name": "http", "port": 8080}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// A replica set of a deployment.
pub(crate) fn replica_set(number: u32, revision: u32) -> Value {
    let (app, labels) = (
        format!("workload-{number}"),
        json!({"app": number.to_string()}),
    );
    json!({
        "metadata": {"name": format!("{app}-{revision}"), "labels": labels,
            "annotations": {"deployment.kubernetes.io/revision": revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": "3"},
            "ownerReferences": owner("Deployment", &app)},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "none"}]}}},
    })
}
