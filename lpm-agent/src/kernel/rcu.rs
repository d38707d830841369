//! Waits for the kernel programs that run now.

use std::io;

/// Returns once all programs that run in soft interrupts or with preemption off now have ended. It
/// waits for a grace period of RCU, which is how the kernel does `MEMBARRIER_CMD_GLOBAL`
/// (kernel/sched/membarrier.c; membarrier(2)).
///
/// # Errors
/// `EINVAL`: there are CPUs without ticks (`nohz_full`).
pub(crate) fn wait_for_programs() -> io::Result<()> {
    // SAFETY: membarrier takes three numbers and no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
