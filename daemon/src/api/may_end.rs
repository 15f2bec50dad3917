//! The problems a request may end in, for the OpenAPI document: a list of statuses, each with the codes it may carry.
//!
//! A list that several requests share stands here; one of a single request stands beside that.

use std::collections::BTreeMap;

use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// Makes a list of problems, to be named among the `responses` of a request.
macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident { $($status:literal: $codes:literal),+ $(,)? })+) => { $(
        $(#[$doc])*
        pub(super) enum $name {}

        impl utoipa::IntoResponses for $name {
            fn responses() -> $crate::api::may_end::Responses {
                $crate::api::may_end::documented(&[$(($status, $codes)),+])
            }
        }
    )+ };
}
pub(super) use problems;

problems! {
    /// Of a request for a workspace that is registered here.
    NoSuchWorkspace { 404: "`no_such_workspace`" }

    /// Of a request for a mount or a clone that is there.
    NoSuchReplica { 404: "`no_such_replica`" }

    /// Of a request that begins a mount or a clone.
    ReplicaNotBegun {
        403: "`peer_refused`",
        404: "`no_such_peer`, `no_such_remote_workspace`",
        409: "`ambiguous_name`, with `candidates`",
        422: "`invalid_name`, `invalid_when_gone`, `relative_path`",
        502: "`peer_unreachable`, `other_peer`, `peer_protocol`, `peer_failed`",
        503: "`too_many_operations`, `peer_busy`",
    }

    /// Of a request that ends a mount or a clone.
    ReplicaNotEnded {
        404: "`no_such_replica`",
        409: "`busy`, with `users`",
    }

    /// Of a request for an operation.
    NoSuchOperation { 404: "`no_such_operation`" }
}

/// Responses by status, as `utoipa` collects them.
pub(super) type Responses = BTreeMap<String, RefOr<Response>>;

/// A problem document for each status.
pub(super) fn documented(problems: &[(u16, &str)]) -> Responses {
    let response = |(status, codes): &(u16, &str)| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response =
            ResponseBuilder::new().description(*codes).content("application/problem+json", content).build();
        (status.to_string(), response.into())
    };
    problems.iter().map(response).collect()
}
