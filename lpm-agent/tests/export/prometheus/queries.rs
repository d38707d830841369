//! The queries of `docs/reading-the-numbers.md`, each asked of both Prometheuses.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    thread,
};

use super::{
    NATIVE, ask, kernel_is_usable,
    site::{MEMORY, Site},
    start,
};
use crate::support::{
    lpm::eventually,
    prom::{self, tool},
};

/// A query as it is documented.
#[derive(Debug)]
struct Query {
    /// `classic`, `native`, or `any` kind of histograms.
    kind: String,
    /// The least version that gives an answer.
    least: (u32, u32),
    text: String,
}

/// Those of the blocks `promql`: a comment `# kind, Prometheus 2.40: what`, and the query below it.
fn documented() -> Vec<Query> {
    let readme = include_str!("../../../../docs/reading-the-numbers.md");
    let blocks = readme.split("```promql\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("```").expect("it ends").0);
    let queries = blocks.flat_map(|block| block.split("# ").skip(1));
    let queries = queries.map(|query| {
        let (head, text) = query.split_once('\n').expect("a query");
        let (kind, version) = head.split_once(", Prometheus ").expect("a version");
        let version = version.split_once(':').expect("what it tells").0;
        let (major, minor) = version.split_once('.').expect("a version");
        Query {
            kind: kind.to_owned(),
            least: (major.parse().expect(head), minor.parse().expect(head)),
            text: text.trim().to_owned(),
        }
    });
    queries.collect()
}

/// Serves one page; gives its address and port.
fn serve(page: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head = BufReader::new(&stream).lines();
            let head = head
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty());
            let _lines = head.count();
            let kind = "Content-Type: text/plain; version=0.0.4\r\nConnection: close";
            let length = page.len();
            // Whoever asked may be gone.
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{page}"
            );
        }
    });
    address
}

/// What Kubernetes would tell of the pods that the agent shows.
fn teams(site: &Site) -> String {
    let mut metrics = String::new();
    // Without results of a CNI the names file tells whose interface it is, once there are flows.
    eventually("round trips by pod", || {
        metrics = site.agent.metrics();
        metrics.contains("lpm_pod_rtt_seconds_count{")
    });
    let mut series = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("lpm_pod_rtt_seconds_count{"));
    let labels = series.next().expect("round trips by pod");
    let label = |name: &str| {
        let (_, rest) = labels.split_once(&format!("{name}=\"")).expect("the label");
        rest.split_once('"').expect("its end").0.to_owned()
    };
    // `namespace` comes before `peer_namespace`.
    let (namespace, pod) = (label("namespace"), label(",pod"));
    format!(
        "# TYPE lpm_pod_info gauge\nlpm_pod_info{{namespace=\"{namespace}\",pod=\"{pod}\",label_team=\"a\"}} 1\n"
    )
}

#[test]
fn documented_queries_give_answers() {
    if !kernel_is_usable() {
        return;
    }
    let queries = documented();
    assert!(queries.len() >= 8, "{queries:?}");
    let site = Site::new();
    if site.has_limit() {
        let limit = site.agent.value("lpm_memory_limit_bytes");
        #[expect(clippy::cast_precision_loss, reason = "a power of two")]
        let memory = MEMORY as f64;
        assert_eq!(limit, Some(memory));
        let used = site.agent.value("lpm_memory_used_bytes");
        assert!(used > Some(0.0) && used < limit, "{used:?}");
    }
    let teams = serve(teams(&site));
    let scrape_native = "  scrape_native_histograms: true\n";
    for (version, kind, keys, arguments) in [
        ((2, 42), "classic", "", &[][..]),
        ((2, 42), "native", "", &[NATIVE][..]),
        ((3, 10), "classic", "", &[][..]),
        ((3, 10), "native", scrape_native, &[][..]),
    ] {
        let found = if version.0 == 2 {
            tool("prometheus")
        } else {
            prom::newer()
        };
        let Some(prometheus) = found else { return };
        let job = |name, keys, target: &str| {
            format!(
                "- job_name: {name}\n{keys}  honor_labels: true\n  static_configs: [{{targets: [\"{target}\"], labels: {{instance: node}}}}]\n"
            )
        };
        let jobs = job("lpm", keys, site.target()) + &job("teams", "", &teams);
        let config = format!("scrape_configs:\n{jobs}");
        let directory = tempfile::tempdir().expect("a directory");
        let config = (&*config, arguments);
        let (_prometheus, address) = start(prometheus, &site, directory.path(), config);
        let of_kind = queries
            .iter()
            .filter(|query| query.kind == kind || query.kind == "any");
        let of_kind =
            of_kind.filter(|query| site.has_limit() || !query.text.contains("memory_limit"));
        let (later, now): (Vec<_>, Vec<_>) = of_kind.partition(|query| query.least > version);
        for query in now {
            let what = format!("Prometheus {version:?}, {query:?}");
            eventually(&what, || ask(&address, &query.text).is_some());
            println!("{what}: {:?}", ask(&address, &query.text));
        }
        for query in later {
            assert_eq!(
                ask(&address, &query.text),
                None,
                "{version:?} does {query:?}"
            );
        }
    }
}
