//! Errors of the API server: one word for the metrics, and one sentence for people.

use std::error::Error as _;

use kube::Error;

use super::{state::Watched, watch::Failure};

/// Value of the label `reason`.
pub(super) fn reason(error: &Error) -> &'static str {
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
pub(super) fn sentence(kind: Watched, failure: &Failure) -> String {
    let Failure { verb, error } = failure;
    let resource = kind.as_str();
    let (group, said) = (kind.group(), chain(error));
    match reason(error) {
        "forbidden" => format!(
            "Kubernetes does not let the agent {verb} {resource}: its ClusterRole lacks the verb \
             {verb} on the resource {resource} of the API group \"{group}\"; the Helm chart's role \
             has it ({said})"
        ),
        "unauthorized" => format!(
            "Kubernetes does not accept the agent's credentials ({verb} {resource}): the token has \
             expired or belongs to another cluster; renew it in the kubeconfig or restart the pod \
             ({said})"
        ),
        "certificate" => format!(
            "the Kubernetes API server's certificate is not trusted ({verb} {resource}): give the \
             cluster's certificate authority in the kubeconfig ({said})"
        ),
        "gone" => format!(
            "the Kubernetes API server no longer has the point up to which {resource} were \
             followed: the agent lists them again and keeps its names meanwhile"
        ),
        _ => format!(
            "Kubernetes does not answer ({verb} {resource}): {said}; the agent keeps its names and \
             tries again"
        ),
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
