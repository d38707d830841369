//! The sources of metrics. Each source registers one collector, and all sinks read the same ones.

use std::{fmt, sync::Arc};

use super::{
    agent::{Agent, ConfigHash, ProgramTimes},
    clock::Clocks,
    counters::KernelCounters,
    families::Families,
    flows::Flows,
    http::{Http, HttpCounts},
    identity::Identity,
    info_metrics::Infos,
    interfaces::Interfaces,
    l2sm::L2sm,
    ports::Ports,
    probe_groups::ProbeGroups,
    probes::Probes,
    process::Process,
    reflector::Reflector,
    round_trips::RoundTrips,
    segments::Segments,
    sink::Sink,
    verdicts::Verdicts,
};
use crate::{
    active::agent::{Answers, figures::Figures},
    passive::Model,
};

/// A source of metrics, read at each scrape.
pub trait Collect {
    /// The first part of its families' names.
    fn prefix(&self) -> &'static str {
        "lpm"
    }

    /// Hands over its families as they are now. A series that was never measured is absent.
    ///
    /// # Errors
    /// The source cannot be read, or the sink cannot write it.
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result;
}

/// All sources of metrics, in the order in which they are shown.
#[derive(Default)]
pub struct Collectors(Vec<Box<dyn Collect + Send + Sync>>);

impl fmt::Debug for Collectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Collectors").field(&self.0.len()).finish()
    }
}

impl Collectors {
    /// Registers the sources of an agent that measures passively.
    #[must_use]
    pub fn of_agent(
        model: &Arc<Model>,
        config_hash: Arc<ConfigHash>,
        program_times: ProgramTimes,
        http: Arc<HttpCounts>,
    ) -> Self {
        let mut all = Self::default();
        all.register(RoundTrips::new(Arc::clone(model)));
        all.register(Segments(Arc::clone(model)));
        all.register(Flows(Arc::clone(model)));
        all.register(KernelCounters(Arc::clone(model)));
        all.register(Identity(Arc::clone(model)));
        all.register(Infos(Arc::clone(model)));
        all.register(Ports(Arc::clone(model)));
        all.register(Interfaces(Arc::clone(model)));
        all.register(Agent::new(config_hash, program_times));
        all.register(Http(http));
        all.register(Process);
        all
    }

    /// Registers the sources of an agent that only probes.
    #[must_use]
    pub fn of_prober(config_hash: Arc<ConfigHash>, http: Arc<HttpCounts>) -> Self {
        let mut all = Self::default();
        all.register(Agent::new(config_hash, Box::new(Vec::new)));
        all.register(Http(http));
        all.register(Process);
        all
    }

    /// Registers the sources of an agent that probes, or answers probes.
    #[must_use]
    pub fn and_probes(mut self, figures: &Arc<Figures>, answers: &Arc<Answers>) -> Self {
        self.register(Probes(Arc::clone(figures)));
        self.register(ProbeGroups::new(Arc::clone(figures)));
        self.register(Verdicts(Arc::clone(figures)));
        self.register(Clocks::new(Arc::clone(figures)));
        self.register(Reflector(Arc::clone(answers)));
        self
    }

    /// Registers L2S-M LPM's series beside those of the probes.
    #[must_use]
    pub fn and_l2sm_series(mut self, figures: &Arc<Figures>) -> Self {
        self.register(L2sm(Arc::clone(figures)));
        self
    }

    /// Adds a source; its families are shown after all others.
    pub fn register(&mut self, source: impl Collect + Send + Sync + 'static) {
        self.0.push(Box::new(source));
    }

    /// Reads all sources into a sink.
    ///
    /// # Errors
    /// A source cannot be read, or the sink cannot write what it has.
    pub fn collect(&self, sink: &mut dyn Sink) -> fmt::Result {
        (self.0.iter())
            .try_for_each(|source| source.collect(&mut Families::new(source.prefix(), sink)))
    }
}

#[cfg(test)]
mod tests {
    use lpm_common::layout::{Leg, NameId, NameValue, PairKey, PeerKind, Vantage};

    use super::{
        super::{
            metrics::tests::metrics_of,
            negotiate::Format,
            sink::{Family, InfoLabels, LabelSet, Series, Unit, Value},
        },
        *,
    };
    use crate::passive::{
        Counts,
        model::tests::{model, observe, tables},
    };

    /// Name with its unit, kind, and the names of each series' labels.
    type Recorded = (String, &'static str, Vec<Vec<String>>);

    /// A sink of no format: it notes what it is given.
    #[derive(Default)]
    struct Recorder(Vec<Recorded>);

    impl Recorder {
        fn note(&mut self, family: &Family<'_>, kind: &'static str, labels: Vec<Vec<String>>) {
            let unit = family.unit.map_or("", |Unit::Seconds| "_seconds");
            self.0
                .push((format!("{}{unit}", family.name), kind, labels));
        }
    }

    fn names<T>(series: Series<'_, T>) -> Vec<Vec<String>> {
        let names = |labels: LabelSet| labels.into_iter().map(|(name, _)| name.to_owned());
        series.map(|(labels, _)| names(labels).collect()).collect()
    }

    impl Sink for Recorder {
        fn counter(&mut self, family: &Family<'_>, series: Series<'_, Value>) -> fmt::Result {
            self.note(family, "counter", names(series));
            Ok(())
        }

        fn gauge(&mut self, family: &Family<'_>, series: Series<'_, Value>) -> fmt::Result {
            self.note(family, "gauge", names(series));
            Ok(())
        }

        fn histogram(&mut self, family: &Family<'_>, series: Series<'_, Counts>) -> fmt::Result {
            self.note(family, "histogram", names(series));
            Ok(())
        }

        fn info(
            &mut self,
            family: &Family<'_>,
            series: &mut dyn Iterator<Item = InfoLabels>,
        ) -> fmt::Result {
            let names = |labels: InfoLabels| labels.into_iter().map(|(name, _)| name.to_string());
            self.note(
                family,
                "info",
                series.map(|all| names(all).collect()).collect(),
            );
            Ok(())
        }
    }

    #[test]
    fn every_sink_gets_the_families_that_prometheus_gets() {
        let name = |namespace| NameValue::new(NameId::new(namespace, 0), PeerKind::Pod);
        let tables = tables(&[PairKey::new(Vantage::Pod as u8, name(1), name(2))]);
        observe(&tables, 1, Leg::Remote, 0, 30_000_000);
        let model = Arc::new(model(tables));
        let mut recorder = Recorder::default();
        let times: ProgramTimes = Box::new(Vec::new);
        Collectors::of_agent(&model, Arc::default(), times, Arc::default())
            .collect(&mut recorder)
            .expect("all is read");
        let families = recorder.0.iter();
        let families: Vec<_> = families
            .map(|(name, kind, _)| format!("# TYPE {name} {kind}"))
            .collect();
        let page = metrics_of(&model).encode(Format::OpenMetrics);
        let page = String::from_utf8(page.expect("metrics")).expect("text");
        let types = page.lines().filter(|line| line.starts_with("# TYPE "));
        assert_eq!(families, types.collect::<Vec<_>>());
        let labels = ["namespace", "peer_namespace", "peer_kind", "leg", "echo"];
        let rtt = (
            "lpm_rtt_seconds".to_owned(),
            "histogram",
            vec![labels.map(str::to_owned).to_vec()],
        );
        assert!(recorder.0.contains(&rtt), "{:?}", recorder.0);
    }

    #[test]
    fn whoever_registers_is_asked_in_turn() {
        struct Source(&'static str, usize);
        impl Collect for Source {
            fn prefix(&self) -> &'static str {
                self.0
            }

            fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
                let series = (0..self.1).map(|_| (Vec::new(), 1.5));
                let (name, help) = ("some", "So many series");
                out.gauges(name, help, series)
            }
        }
        let mut all = Collectors::default();
        for source in [Source("x", 2), Source("none", 0), Source("y", 1)] {
            all.register(source);
        }
        let mut recorder = Recorder::default();
        all.collect(&mut recorder).expect("nothing fails");
        let series = |name: &str, count| (name.to_owned(), "gauge", vec![Vec::new(); count]);
        assert_eq!(recorder.0, [series("x_some", 2), series("y_some", 1)]);
    }
}
