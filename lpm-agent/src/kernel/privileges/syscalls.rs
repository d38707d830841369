//! seccomp(2): system calls that an agent never needs.
//!
//! The list names what is denied. What an agent does need depends on the C library and on the
//! kernel, so a list of what is allowed would end agents after an update of either. The container's
//! profile may deny more.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Denied with `EPERM`. Missing here on purpose are adjtimex(2) and `clock_adjtime`: they tell what
/// the clock claims, and change it only with `CAP_SYS_TIME`, which the agent gives up. What is denied: changing the machine, looking into other processes, keys, namespaces,
/// other users, and interfaces of the kernel that were a way in before.
const DENIED: &[c_long] = &[
    // Modules, another kernel, the end of this one, its clock and its log.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // File systems.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Other processes and namespaces.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Keys and users.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_personality,
    // Interfaces that are wide, and that nothing here uses.
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
];

/// Denied, too, unless other programs may be started.
const EXECUTING: [c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// Flags of clone(2) that make a namespace (`CLONE_NEW*`).
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// On x86-64 the same calls have a second number, with this bit (`__X32_SYSCALL_BIT`).
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

/// Filters the system calls of the calling thread.
///
/// # Errors
/// The kernel's.
pub(super) fn filter(executes: bool) -> Result<(), Error> {
    for program in programs(executes)? {
        apply_filter(&program)?;
    }
    Ok(())
}

/// The filters. The kernel runs each of them, and the strictest answer holds.
fn programs(executes: bool) -> Result<[BpfProgram; 2], BackendError> {
    let more: &[c_long] = if executes { &[] } else { &EXECUTING };
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = numbers(DENIED.iter().chain(more)).collect();
    let namespaces = NAMESPACES.iter().map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        let set = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, set, flag)?;
        SeccompRule::new(vec![condition])
    });
    denied.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    // The flags of clone3 lie in memory, which a filter does not see. Where the call does not exist
    // the C library uses clone.
    let missing = numbers([libc::SYS_clone3].iter()).collect();
    Ok([
        program(denied, libc::EPERM)?,
        program(missing, libc::ENOSYS)?,
    ])
}

/// Calls that are denied whatever their arguments.
fn numbers<'a>(
    calls: impl Iterator<Item = &'a c_long>,
) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    #[cfg(target_arch = "x86_64")]
    let calls = calls.flat_map(|call| [*call, *call | X32]);
    #[cfg(not(target_arch = "x86_64"))]
    let calls = calls.copied();
    calls.map(|call| (call, Vec::new()))
}

fn program(
    denied: BTreeMap<i64, Vec<SeccompRule>>,
    errno: libc::c_int,
) -> Result<BpfProgram, BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(denied, SeccompAction::Allow, refuse, architecture)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::{io, thread};

    use super::*;

    /// The error of a call with these arguments, in a thread whose calls are filtered.
    fn refused(executes: bool, calls: Vec<(c_long, c_long)>) -> Vec<Option<i32>> {
        let thread = thread::spawn(move || {
            filter(executes).expect("filter");
            let tried = calls.into_iter().map(|(call, argument)| {
                // SAFETY: none of the calls gets a pointer that the kernel could follow.
                let result = unsafe { libc::syscall(call, argument, 0, 0, 0, 0, 0) };
                let error = io::Error::last_os_error();
                (result < 0).then(|| error.raw_os_error()).flatten()
            });
            tried.collect()
        });
        thread.join().expect("no panic")
    }

    #[test]
    fn each_call_of_the_list_is_refused() {
        // By themselves they would fail with another error: to root, none says `EPERM` for
        // arguments that make no sense.
        let calls = DENIED.iter().chain(&EXECUTING).map(|call| (*call, -1));
        let calls: Vec<_> = calls.collect();
        let errors = refused(false, calls.clone());
        for ((call, _), error) in calls.iter().zip(errors) {
            assert_eq!(error, Some(libc::EPERM), "system call {call}");
        }
    }

    #[test]
    fn namespaces_are_refused_and_threads_are_not() {
        // Both together would be `EINVAL` by themselves.
        let user = c_long::from(libc::CLONE_NEWUSER | libc::CLONE_FS);
        let calls = vec![
            (libc::SYS_clone, user),
            (libc::SYS_clone3, 0),
            (libc::SYS_execve, 0),
        ];
        let errors = refused(true, calls);
        assert_eq!(
            errors,
            [Some(libc::EPERM), Some(libc::ENOSYS), Some(libc::EFAULT)],
            "programs may be started"
        );
        let thread = thread::spawn(|| {
            filter(false).expect("filter");
            thread::spawn(|| 42).join().expect("no panic")
        });
        assert_eq!(thread.join().expect("no panic"), 42);
    }

    /// A reflector says what its clock claims.
    #[test]
    fn the_clock_may_be_read_and_not_set() {
        let read = || {
            filter(false).expect("filter");
            // SAFETY: all bits zero are a valid `timex`, and ask for nothing to be changed.
            let mut timex: libc::timex = unsafe { std::mem::zeroed() };
            // SAFETY: the pointer is to a whole `timex`, which outlives the call.
            unsafe { libc::adjtimex(&raw mut timex) }
        };
        assert!(thread::spawn(read).join().expect("no panic") >= 0);
        assert_eq!(
            refused(false, vec![(libc::SYS_clock_settime, 0)]),
            [Some(libc::EPERM)]
        );
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_second_numbers_are_refused_as_well() {
        let calls = vec![(libc::SYS_ptrace | X32, -1)];
        assert_eq!(refused(false, calls), [Some(libc::EPERM)]);
    }
}
