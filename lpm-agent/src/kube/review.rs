//! Asks the API server whose a token is, and what its holder may do.

use std::fmt;

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, Error, api::PostParams};

use super::NoAnswer;

/// A client that reviews tokens and accesses.
pub(crate) struct Reviewer(Client);

impl Reviewer {
    /// A reviewer with the rights of this client.
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// The holder of a token that names one of these audiences; empty: the API server's own. None:
    /// the token is not valid.
    pub(crate) async fn holder(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<UserInfo>, NoAnswer> {
        let wanted = (!audiences.is_empty()).then(|| audiences.to_vec());
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: wanted,
            },
            ..TokenReview::default()
        };
        let api = Api::all(self.0.clone());
        let answer: TokenReview = (api.create(&PostParams::default(), &review).await)
            .map_err(|error| failed(&error, "tokenreviews", "authentication.k8s.io"))?;
        let status = answer.status.unwrap_or_default();
        // An authenticator that knows nothing of audiences leaves them out: its token is for anybody.
        let named = status.audiences.unwrap_or_default();
        let is_for_us = audiences.is_empty() || audiences.iter().any(|one| named.contains(one));
        let is_valid = status.authenticated == Some(true) && is_for_us;
        Ok(status.user.filter(|_| is_valid))
    }

    /// Whether a user may do this to a path that is no resource's, such as `/metrics`.
    pub(crate) async fn allows(
        &self,
        user: &UserInfo,
        verb: &str,
        path: &str,
    ) -> Result<bool, NoAnswer> {
        let UserInfo {
            extra,
            groups,
            uid,
            username,
        } = user.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                extra,
                groups,
                uid,
                user: username,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some(verb.to_owned()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::all(self.0.clone());
        let answer: SubjectAccessReview = (api.create(&PostParams::default(), &review).await)
            .map_err(|error| failed(&error, "subjectaccessreviews", "authorization.k8s.io"))?;
        Ok(answer
            .status
            .is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

fn failed(error: &Error, resource: &str, group: &str) -> NoAnswer {
    match error {
        Error::Api(status) if matches!(status.code, 401 | 403) => NoAnswer::Denied(format!(
            "the agent's ClusterRole lacks the verb create on the resource {resource} of the API \
             group \"{group}\"; the Helm chart's value auth.kubernetes grants it ({})",
            status.message
        )),
        error => NoAnswer::Failed(error.to_string()),
    }
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}
