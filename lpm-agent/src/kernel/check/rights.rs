//! What an agent with this configuration will keep of its rights.

use super::{
    super::privileges::{Keep, has_landlock},
    Item, Status,
};

/// Says what an agent keeps of its rights, and what goes with the others.
pub(super) fn kept(keep: Keep) -> Item {
    let name = "privileges";
    let measuring = "lpm run keeps CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON";
    match keep {
        Keep::Least => {
            let landlock = if has_landlock() {
                "Landlock lets it write its pins only"
            } else {
                "without Landlock, which this kernel lacks"
            };
            Item::ok(
                name,
                format!(
                    "{measuring}; {landlock}. It does not show processes of other users \
                     (`privileges: process_names` does), nor names of other tools' programs"
                ),
            )
        }
        Keep::ProcessNames => Item::ok(
            name,
            format!(
                "{measuring}, and for names of processes CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; \
                 without Landlock, which hides other processes"
            ),
        ),
        Keep::All => Item::lacks(
            name,
            Status::Warning,
            "lpm run keeps all rights that it is started with, as `privileges: all` says",
            "set `privileges: least` or `privileges: process_names`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_comes_with_what_keeps_it() {
        let said = kept(Keep::Least).found;
        assert!(said.contains("privileges: process_names"), "{said}");
        let said = kept(Keep::ProcessNames).found;
        assert!(said.contains("CAP_SYS_PTRACE"), "{said}");
        let all = kept(Keep::All);
        assert_eq!(all.status, Status::Warning);
        assert!(all.fix.is_some_and(|fix| fix.contains("privileges: least")));
    }
}
