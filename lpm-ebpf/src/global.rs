//! Global functions, which the verifier proves once.

/// Makes a global function. The verifier proves it by itself, for any arguments, and relies on its
/// signature at every call. A static function is followed again from each caller's state. In a
/// program with static functions the verifier before 6.4 takes every number for one that matters;
/// few states are then equal, and the same code costs it seven times as much as later.
///
/// Arguments are numbers and the context: before 5.12 nothing else is allowed. The result is a
/// number, for kernels that always want one.
macro_rules! global {
    ($(#[$meta:meta])* $visible:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[unsafe(no_mangle)]
        #[inline(never)]
        $visible extern "C" fn $name($($argument: $type),*) -> u32 $body
    };
}
