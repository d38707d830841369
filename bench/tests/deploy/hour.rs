//! An hour of each cause, by promtool's clock: its alert comes once, stays and goes out. Beside the
//! cause are bursts of other echoes, collections that fail and evaluations of two lengths: none of
//! them is a reason to begin anew.

use std::fs;

use serde_json::{Value, json};

use crate::{program, ran, rules::rule_file};

/// Collections, one in 30 s: all is well for 10 minutes, then an hour is not, then 25 minutes are.
const ALL: usize = 190;
const BEGINS: usize = 20;
const ENDS: usize = 140;

/// Bursts of 30 are so far apart, 8 minutes: further than the rules look back.
const BURSTS: usize = 16;

/// Collections of which nothing came.
const FAILED: [usize; 3] = [50, 83, 120];

fn is_slow(at: usize) -> bool {
    (BEGINS..ENDS).contains(&at)
}

fn is_burst(at: usize) -> bool {
    at.is_multiple_of(BURSTS) && at > 0
}

/// Seconds, `slow` while the cause goes on.
fn takes(well: f64, slow: f64) -> impl Fn(usize) -> f64 {
    move |at| if is_slow(at) { slow } else { well }
}

/// How many each time, and in a burst.
fn each(times: f64, burst: f64) -> impl Fn(usize) -> f64 {
    move |at| if is_burst(at) { times + burst } else { times }
}

/// Hardly as many as anything is concluded from (15 in 5 minutes), and for a minute in 16 not even so.
fn hardly_enough(at: usize) -> f64 {
    if [0, 8].contains(&(at % 32)) {
        0.4
    } else {
        1.7
    }
}

/// What is collected in a test.
#[derive(Default)]
struct Metrics(Vec<Value>);

impl Metrics {
    /// What `value` is at each collection.
    fn gauge(&mut self, series: &str, value: impl Fn(usize) -> f64) {
        let values = (0..ALL).map(|at| {
            let failed = FAILED.contains(&at);
            if failed {
                "stale".to_owned()
            } else {
                value(at).to_string()
            }
        });
        let values: Vec<_> = values.collect();
        self.0
            .push(json!({"series": series, "values": values.join(" ")}));
    }

    /// What is more by `more` at each collection.
    fn counter(&mut self, series: &str, more: impl Fn(usize) -> f64) {
        let mut sum = 0.0;
        let sums: Vec<_> = (0..ALL)
            .map(|at| {
                sum += more(at);
                sum
            })
            .collect();
        self.gauge(series, |at| sums[at]);
    }

    fn histogram(
        &mut self,
        (name, labels): (&str, &str),
        times: impl Fn(usize) -> f64,
        takes: impl Fn(usize) -> f64,
    ) {
        self.counter(&format!("{name}_count{{{labels}}}"), &times);
        self.counter(&format!("{name}_sum{{{labels}}}"), |at| {
            times(at) * takes(at)
        });
    }

    /// Echoes that one end saw: of shop, which asks pay, or of pay.
    fn echoes(
        &mut self,
        (leg, echo): (&str, &str),
        times: impl Fn(usize) -> f64,
        takes: impl Fn(usize) -> f64,
    ) {
        let labels = format!("{}, leg=\"{leg}\", echo=\"{echo}\"", ends(leg));
        self.histogram(("lpm_rtt_seconds", &labels), times, takes);
    }

    /// Each flow's least in 10 s, of ten flows.
    fn least(&mut self, leg: &str, takes: impl Fn(usize) -> f64) {
        let labels = format!("{}, leg=\"{leg}\"", ends(leg));
        self.histogram(("lpm_flow_rtt_seconds", &labels), |_| 30.0, takes);
    }
}

/// The labels that name the two ends of a leg: namespace, peer's namespace and peer's kind.
fn ends(leg: &str) -> String {
    let (namespace, peer, kind) = match leg {
        "remote" => ("shop", "pay", "service"),
        _ => ("pay", "shop", "pod"),
    };
    format!("namespace=\"{namespace}\", peer_namespace=\"{peer}\", peer_kind=\"{kind}\"")
}

/// A cause: which alert there has to be, and for how many minutes `for` lets it wait.
struct Hour {
    name: &'static str,
    alert: Option<(&'static str, &'static str)>,
    wait: usize,
    metrics: fn(&mut Metrics),
}

const SLOW: &str = "LpmSlow";

/// Every alert that is about what goes on for a time.
const HOURS: [Hour; 14] = [
    Hour {
        name: "the network by both ends, with bursts of prompt echoes",
        alert: Some((SLOW, "network")),
        wait: 5,
        metrics: |all| {
            all.echoes(("remote", "data"), each(300.0, 0.0), takes(0.0005, 0.0403));
            all.echoes(("local", "data"), each(300.0, 0.0), takes(0.0003, 0.0003));
            all.echoes(("remote", "prompt"), each(0.0, 30.0), takes(0.0002, 0.04));
            all.least("remote", takes(0.0004, 0.0402));
            all.least("local", takes(0.0002, 0.0002));
        },
    },
    Hour {
        name: "the network by both ends, with bursts of prompt echoes that are quick",
        alert: Some((SLOW, "network")),
        wait: 5,
        metrics: |all| {
            all.echoes(("remote", "lone"), each(300.0, 0.0), takes(0.0205, 0.0603));
            all.echoes(("local", "lone"), each(300.0, 0.0), takes(0.0203, 0.0203));
            all.echoes(("remote", "prompt"), each(0.0, 30.0), takes(0.0002, 0.0002));
            all.echoes(("local", "prompt"), each(0.0, 30.0), takes(0.0001, 0.0001));
            all.least("remote", takes(0.0004, 0.0402));
            all.least("local", takes(0.0002, 0.0002));
        },
    },
    Hour {
        name: "the network by prompt echoes, with bursts of others and nobody at the other end",
        alert: Some((SLOW, "network")),
        wait: 5,
        metrics: |all| {
            all.echoes(("remote", "prompt"), each(30.0, 0.0), takes(0.0002, 0.0403));
            all.echoes(("remote", "data"), each(0.0, 600.0), takes(0.02, 0.06));
            all.least("remote", takes(0.0002, 0.0402));
        },
    },
    Hour {
        name: "the server, with bursts of prompt echoes that come late",
        alert: Some((SLOW, "server")),
        wait: 5,
        metrics: |all| {
            all.echoes(("local", "data"), each(300.0, 0.0), takes(0.0003, 0.03));
            all.echoes(("local", "prompt"), each(0.0, 30.0), takes(0.015, 0.015));
            all.echoes(("remote", "data"), each(300.0, 0.0), takes(0.0005, 0.0302));
            all.least("remote", takes(0.0003, 0.0302));
            all.least("local", takes(0.0002, 0.03));
        },
    },
    Hour {
        name: "the pod, with bursts of lone echoes that are quick",
        alert: Some((SLOW, "pod")),
        wait: 5,
        metrics: |all| {
            all.echoes(("local", "prompt"), each(300.0, 30.0), takes(0.0001, 0.008));
            all.echoes(("local", "lone"), each(3.0, 30.0), takes(0.0001, 0.002));
        },
    },
    Hour {
        name: "loss, with bursts of prompt echoes",
        alert: Some((SLOW, "loss")),
        wait: 5,
        metrics: |all| {
            all.echoes(("remote", "data"), each(300.0, 0.0), takes(0.0005, 0.0105));
            all.echoes(("remote", "prompt"), each(0.0, 30.0), takes(0.0002, 0.0002));
            all.least("remote", takes(0.0004, 0.0004));
            let labels = format!("{}, leg=\"remote\"", ends("remote"));
            let again = |at| if is_slow(at) { 15.0 } else { 0.0 };
            all.counter(&format!("lpm_retransmissions_total{{{labels}}}"), again);
        },
    },
    Hour {
        name: "a busy and healthy node, with bursts of prompt echoes where the pod was late",
        alert: None,
        wait: 5,
        metrics: |all| {
            all.echoes(("local", "lone"), each(300.0, 0.0), takes(0.00007, 0.00007));
            all.echoes(("local", "prompt"), each(3.0, 30.0), takes(0.0069, 0.0139));
            all.echoes(("remote", "lone"), each(300.0, 0.0), takes(0.0003, 0.0003));
            all.echoes(("remote", "prompt"), each(3.0, 30.0), takes(0.007, 0.0141));
            all.least("remote", takes(0.0002, 0.0002));
            all.least("local", takes(0.00005, 0.00005));
        },
    },
    Hour {
        name: "the pod, with hardly enough measurements",
        alert: Some((SLOW, "pod")),
        wait: 5,
        metrics: |all| all.echoes(("local", "prompt"), hardly_enough, takes(0.0001, 0.008)),
    },
    Hour {
        name: "DNS with hardly enough queries",
        alert: Some(("LpmDnsUnanswered", "")),
        wait: 5,
        metrics: |all| {
            let lost = |at| if is_slow(at) { hardly_enough(at) } else { 0.0 };
            all.counter("lpm_dns_unanswered_total{namespace=\"shop\"}", lost);
        },
    },
    Hour {
        name: "DNS that answers some",
        alert: Some(("LpmDnsUnanswered", "")),
        wait: 5,
        metrics: |all| {
            all.counter(
                "lpm_dns_seconds_count{namespace=\"shop\", rcode=\"NOERROR\"}",
                each(30.0, 30.0),
            );
            all.counter(
                "lpm_dns_unanswered_total{namespace=\"shop\"}",
                takes(0.0, 10.0),
            );
        },
    },
    Hour {
        name: "DNS that answers nobody",
        alert: Some(("LpmDnsUnanswered", "")),
        wait: 5,
        metrics: |all| {
            all.counter(
                "lpm_dns_unanswered_total{namespace=\"shop\"}",
                takes(0.0, 10.0),
            );
        },
    },
    Hour {
        name: "an agent that measures nothing",
        alert: Some(("LpmNotMeasuring", "")),
        wait: 15,
        metrics: |all| {
            let agent = "node=\"a\", instance=\"a:9477\"";
            all.counter(&format!("lpm_packets_total{{{agent}}}"), each(3000.0, 30.0));
            all.counter(
                &format!("lpm_samples_total{{{agent}, method=\"ts\"}}"),
                takes(30.0, 0.0),
            );
        },
    },
    Hour {
        name: "names that come late",
        alert: Some(("LpmNamesLate", "")),
        wait: 10,
        metrics: |all| {
            let agent = "node=\"a\", instance=\"a:9477\", kind=\"pods\"";
            all.gauge(
                &format!("lpm_identity_lag_seconds{{{agent}}}"),
                takes(1.0, 90.0),
            );
            all.gauge(&format!("lpm_identity_synced{{{agent}}}"), |_| 1.0);
        },
    },
    Hour {
        name: "a map that is full, where new flows come in bursts",
        alert: Some(("LpmMapFull", "")),
        wait: 15,
        metrics: |all| {
            let full = "node=\"a\", instance=\"a:9477\", map=\"flows\", reason=\"full\"";
            let dropped = |at| {
                if is_slow(at) && is_burst(at) {
                    30.0
                } else {
                    0.0
                }
            };
            all.counter(&format!("lpm_map_drops_total{{{full}}}"), dropped);
        },
    },
];

/// How long the rules may take to see what is, and that it is over: their windows, and bursts.
const SLACK: usize = 14;

impl Hour {
    fn test(&self) -> Value {
        let mut metrics = Metrics::default();
        (self.metrics)(&mut metrics);
        let at = |minutes: usize| format!("{minutes}m");
        let firing = "count by (alertname, cause) (ALERTS{alertstate=\"firing\"})";
        let ever =
            "count by (alertname, cause) (count_over_time(ALERTS{alertstate=\"firing\"}[95m]))";
        let long = format!(
            "sum(count_over_time(ALERTS{{alertstate=\"firing\"}}[95m:30s])) >= bool {}",
            2 * (60 - self.wait - SLACK)
        );
        // Since when it is pending: another time whenever it begins anew.
        let anew = "sum(changes(ALERTS_FOR_STATE[95m]))";
        let alert = self.alert.map(|(name, cause)| {
            let cause = if cause.is_empty() {
                String::new()
            } else {
                format!(", cause=\"{cause}\"")
            };
            json!({"labels": format!("{{alertname=\"{name}\"{cause}}}"), "value": 1})
        });
        let is = |value: u8| self.alert.map(|_| json!({"labels": "{}", "value": value}));
        let expects = [
            (at(9), "ALERTS", None),
            (at(10 + self.wait + SLACK), firing, alert.clone()),
            (at(69), firing, alert.clone()),
            (at(70 + SLACK + 3), firing, None),
            (at(94), ever, alert),
            (at(94), &long, is(1)),
            (at(94), anew, is(0)),
        ];
        let expects = expects.into_iter().map(|(time, query, sample)| {
            let samples: Vec<_> = sample.into_iter().collect();
            json!({"expr": query, "eval_time": time, "exp_samples": samples})
        });
        json!({
            "name": self.name, "interval": "30s",
            "input_series": metrics.0,
            "promql_expr_test": expects.collect::<Vec<_>>(),
        })
    }
}

#[test]
fn an_hour_of_each_cause_is_one_alert() {
    let Some(file) = rule_file(&[]) else { return };
    for interval in ["30s", "1m"] {
        let Some(mut promtool) = program("promtool") else {
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("lpm.rules.yaml"), &file).unwrap();
        let tests = json!({
            "rule_files": ["lpm.rules.yaml"], "evaluation_interval": interval,
            "tests": HOURS.iter().map(Hour::test).collect::<Vec<_>>(),
        });
        let at = directory.path().join("hour.yaml");
        fs::write(&at, tests.to_string()).unwrap();
        let said = ran(promtool.args(["test", "rules"]).arg(&at));
        assert!(
            said.is_ok(),
            "evaluated each {interval}: {}",
            said.unwrap_err()
        );
    }
}
