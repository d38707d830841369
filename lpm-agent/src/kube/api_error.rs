//! Errors of the API server: one word for the metrics, and one sentence for people.

use std::error::Error as _;

use kube::Error;

/// The failure of a list or a watch.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The request that failed: `list` or `watch`.
    pub(crate) verb: &'static str,
    /// The error.
    pub(crate) error: Error,
}

/// A kind of object, for the sentence about its failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowedKind {
    /// Plural, as in a role: `pods`.
    pub(crate) resource: &'static str,
    /// API group, as in a role: `apps`.
    pub(crate) group: &'static str,
    /// What the agent makes of the objects, and keeps while the server does not answer: `names`.
    pub(crate) result: &'static str,
}

impl Failure {
    /// Value of the label `reason`.
    pub(crate) fn reason(&self) -> &'static str {
        let error = &self.error;
        match error {
            Error::Api(status) => match status.code {
                401 => "unauthorized",
                403 => "forbidden",
                410 => "gone",
                429 => "throttled",
                500.. => "server",
                _ => "refused",
            },
            Error::Auth(_) => "unauthorized",
            Error::SerdeError(_) => "unreadable",
            _ if is_certificate(error) => "certificate",
            _ => "unreachable",
        }
    }

    /// A sentence with the problem and the remedy.
    pub(crate) fn sentence(&self, kind: FollowedKind) -> String {
        let Self { verb, error } = self;
        let FollowedKind {
            resource,
            group,
            result,
        } = kind;
        let said = chain(error);
        match self.reason() {
            "forbidden" => format!(
                "Kubernetes does not let the agent {verb} {resource}: its ClusterRole lacks the verb \
                 {verb} on the resource {resource} of the API group \"{group}\"; the Helm chart's role \
                 has it ({said})"
            ),
            "unauthorized" => format!(
                "Kubernetes does not accept the agent's credentials ({verb} {resource}): the token \
                 has expired or belongs to another cluster; renew it in the kubeconfig or restart \
                 the pod ({said})"
            ),
            "certificate" => format!(
                "the Kubernetes API server's certificate is not trusted ({verb} {resource}): give the \
                 cluster's certificate authority in the kubeconfig ({said})"
            ),
            "gone" => format!(
                "the Kubernetes API server no longer has the point up to which {resource} were \
                 followed: the agent lists them again and keeps its {result} meanwhile"
            ),
            _ => format!(
                "Kubernetes does not answer ({verb} {resource}): {said}; the agent keeps its \
                 {result} and tries again"
            ),
        }
    }
}

fn is_certificate(error: &Error) -> bool {
    let text = chain(error).to_lowercase();
    text.contains("certificate") || text.contains("unknownissuer")
}

/// An error and its causes, each once.
fn chain(error: &Error) -> String {
    let mut text = match error {
        Error::Api(status) => status.message.clone(),
        _ => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) && !matches!(error, Error::Api(_)) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    text
}
