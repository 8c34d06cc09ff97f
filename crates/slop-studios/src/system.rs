//! Functions that only Linux has. On other systems they do nothing, without harm.

use memmap2::MmapMut;

/// Returns free pages to the system, which the C library keeps otherwise.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's only way to give free pages back")]
pub(crate) fn give_memory_back() {
    // SAFETY: `malloc_trim` takes the allocator's own locks and touches free memory only.
    let gave = unsafe { libc::malloc_trim(0) };
    tracing::debug!(gave, "gave memory back");
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_memory_back() {}

/// Locks the used pages of the mapping in memory, where that is allowed. Otherwise they might have to be read back from
/// a disk that may fail, and a signal would end the process. Unused pages take no memory.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "it is about addresses, which are those of a mapping")]
pub(crate) fn keep_in_memory(mapping: &MmapMut) {
    use rustix::mm::{MlockFlags, mlock_with};
    // SAFETY: the pages belong to this mapping, which can still be unmapped, and nothing is read or written.
    let _ = unsafe { mlock_with(mapping.as_ptr().cast_mut().cast(), mapping.len(), MlockFlags::ONFAULT) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_in_memory(_mapping: &MmapMut) {}
