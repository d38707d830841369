//! Info metrics: the Kubernetes labels of pods and workloads that the configuration asks for.
//!
//! They are metrics of their own, to be joined with others in queries, and no labels of histograms.
//! A histogram would begin anew with each change of a label, and its series would be as many as all
//! values together.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{collect::Collect, families::Families, sink::InfoLabels};
use crate::passive::Model;

/// Info metrics of this node's pods, at the levels that are switched on. There are none unless
/// labels were asked for.
pub(super) struct Infos(pub(super) Arc<Model>);

impl Collect for Infos {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let registry = self.0.registry();
        let (chosen, levels) = (registry.labels(), self.0.ids().levels());
        if chosen.is_empty() || !(levels.pod || levels.workload) {
            return Ok(());
        }
        let mut pods: Vec<InfoLabels> = Vec::new();
        let mut workloads: BTreeMap<[Arc<str>; 3], InfoLabels> = BTreeMap::new();
        for ((namespace, pod), name) in registry.pods_here() {
            let labels: InfoLabels = chosen.of(&name).collect();
            let kind = name.workload_type.clone().unwrap_or_default();
            if let Some(workload) = &name.workload {
                let key = [&namespace, workload, &kind].map(Arc::clone);
                let shared = workloads.entry(key).or_insert_with(|| labels.clone());
                for (shared, own) in shared.iter_mut().zip(&labels) {
                    if shared.1 != own.1 {
                        shared.1 = "".into();
                    }
                }
            }
            let workload = name.workload.clone().unwrap_or_default();
            let who = [
                ("namespace", namespace),
                ("pod", pod),
                ("workload", workload),
                ("workload_type", kind),
            ];
            pods.push(with(who, labels));
        }
        if levels.pod {
            let help = "1 for each pod of this node, with its workload and the configured labels";
            out.infos("pod", help, pods)?;
        }
        if levels.workload {
            let workloads = workloads
                .into_iter()
                .map(|([namespace, workload, kind], labels)| {
                    let who = [
                        ("namespace", namespace),
                        ("workload", workload),
                        ("workload_type", kind),
                    ];
                    with(who, labels)
                });
            let help = "1 for each workload with pods on this node, with those configured labels that \
                        have the same value on all its pods";
            out.infos("workload", help, workloads)?;
        }
        Ok(())
    }
}

fn with<const N: usize>(who: [(&'static str, Arc<str>); N], labels: InfoLabels) -> InfoLabels {
    let who = who.into_iter().map(|(name, value)| (name.into(), value));
    who.chain(labels).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::{metrics::tests::metrics_of, negotiate::Format},
        identity::{Levels, Name, Registry, labels::Chosen},
        passive::{
            Model, NameIds,
            model::tests::{model_of, tables},
        },
    };

    /// The pods of node `n1` and one of another node, by pod, workload and the label `team`.
    fn metrics(levels: Levels, pods: &[(&str, &str, &str)]) -> String {
        let chosen = Chosen::new(&["team".to_owned(), "example.com/tier".to_owned()]);
        let registry = Registry::on_node(Some("n1".into()), chosen);
        let mut changes = Vec::new();
        for (number, (pod, workload, team)) in (1..).zip(pods) {
            let name = Name {
                namespace: Some("shop".into()),
                pod: Some((*pod).into()),
                workload: Some((*workload).into()),
                workload_type: Some("deployment".into()),
                node: Some(if pod.starts_with("far") { "n2" } else { "n1" }.into()),
                labels: [("team".into(), (*team).into())].into(),
                ..Name::default()
            };
            let address = std::net::IpAddr::from([198, 18, 0, number]);
            changes.push((address.into(), Some(Arc::new(name))));
        }
        registry.apply(&changes);
        let ids = NameIds::new(levels, Arc::new(registry));
        let model: Model = model_of(tables(&[]), ids);
        (model.ids().follow(model.tables(), &changes)).expect("follow");
        let metrics = metrics_of(&Arc::new(model));
        let text = |format| {
            let text = metrics.encode(format).expect("metrics");
            String::from_utf8(text).expect("text")
        };
        let infos = |text: &str| -> Vec<String> {
            let lines = text.lines().map(str::to_owned);
            lines.filter(|line| line.contains("label_team=")).collect()
        };
        let plain = text(Format::Text);
        assert_eq!(infos(&plain), infos(&text(Format::OpenMetrics)));
        plain
    }

    #[test]
    fn labels_are_to_be_joined() {
        let levels = Levels {
            pod: true,
            workload: true,
            ..Levels::default()
        };
        let text = metrics(
            levels,
            &[
                ("web-0", "web", "blue"),
                ("web-1", "web", "green"),
                ("db-0", "db", "a \"b\" \\ ü\n"),
                ("far-0", "far", "red"),
            ],
        );
        for wanted in [
            r#"lpm_pod_info{namespace="shop",pod="web-1",workload="web",workload_type="deployment",label_team="green",label_example_com_tier=""} 1"#,
            r#"lpm_pod_info{namespace="shop",pod="db-0",workload="db",workload_type="deployment",label_team="a \"b\" \\ ü\n",label_example_com_tier=""} 1"#,
            r#"lpm_workload_info{namespace="shop",workload="web",workload_type="deployment",label_team="",label_example_com_tier=""} 1"#,
            r#"lpm_workload_info{namespace="shop",workload="db",workload_type="deployment",label_team="a \"b\" \\ ü\n",label_example_com_tier=""} 1"#,
        ] {
            assert!(text.lines().any(|line| line == wanted), "{wanted}: {text}");
        }
        assert!(!text.contains("far"), "another node tells of it: {text}");
    }

    #[test]
    fn there_is_nothing_to_join_without_levels() {
        let text = metrics(Levels::default(), &[("web-0", "web", "blue")]);
        assert!(!text.contains("label_team"), "{text}");
    }
}
