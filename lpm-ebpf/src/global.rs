//! Functions that the verifier proves once.

/// A global function: the verifier proves it by itself, for any arguments, and takes its word for
/// every call. A static one it follows again from each caller's state; before 6.4 it takes every
/// number in a program with static functions for one that matters, so that few states are equal and
/// the same code costs it seven times as much as later.
///
/// Arguments are numbers and the context: before 5.12 nothing else is allowed. The result is a
/// number, for kernels that want one always.
macro_rules! global {
    ($(#[$meta:meta])* $visible:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[unsafe(no_mangle)]
        #[inline(never)]
        $visible extern "C" fn $name($($argument: $type),*) -> u32 $body
    };
}
