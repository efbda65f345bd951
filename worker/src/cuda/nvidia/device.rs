//! The GPUs that the driver shows. `CUDA_VISIBLE_DEVICES` and parts of a GPU are its own affair.

use std::ffi::CStr;
use std::ptr;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUmemPool_attribute as PoolAttribute, CUresult};

use super::fault;
use super::library::NoCuda;
use super::{DeviceInfo, DriverError};

/// All of them, in the order of their numbers. The driver must be open, as in all that follows.
pub(super) fn all() -> Result<Vec<DeviceInfo>, NoCuda> {
    (0..count()?).map(|ordinal| Ok(describe(ordinal)?.1)).collect()
}

/// One of them.
pub(super) fn find(ordinal: u32) -> Result<(sys::CUdevice, DeviceInfo), NoCuda> {
    let count = count()?;
    if ordinal >= count {
        return Err(NoCuda::NoSuchDevice { ordinal, count });
    }
    describe(ordinal)
}

fn count() -> Result<u32, NoCuda> {
    let mut count = 0;
    // SAFETY: the number is written during the call only.
    checked(unsafe { sys::cuDeviceGetCount(&raw mut count) }, "counting GPUs")?;
    match count {
        ..=0 => Err(NoCuda::NoDevice),
        _ => Ok(count.unsigned_abs()),
    }
}

fn describe(ordinal: u32) -> Result<(sys::CUdevice, DeviceInfo), NoCuda> {
    let mut device = 0;
    // SAFETY: the device is written during the call only.
    checked(unsafe { sys::cuDeviceGet(&raw mut device, ordinal.cast_signed()) }, "looking for a GPU")?;
    let mut name = [0u8; 256];
    // SAFETY: the name has room for as many bytes as said.
    let named = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 256, device) };
    checked(named, "asking for a GPU's name")?;
    let mut address = [0u8; 32];
    // SAFETY: as above.
    let addressed = unsafe { sys::cuDeviceGetPCIBusId(address.as_mut_ptr().cast(), 32, device) };
    checked(addressed, "asking for a GPU's address")?;
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: it is written during the call only.
    checked(unsafe { sys::cuDeviceGetUuid_v2(&raw mut uuid, device) }, "asking for a GPU's UUID")?;
    let mut memory = 0;
    // SAFETY: it is written during the call only.
    checked(unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory, device) }, "asking for a GPU's memory")?;
    let number = |of| attribute(device, of).map_err(|error| no_cuda(error, "asking what a GPU is"));
    let name = text(&name);
    let info = DeviceInfo {
        capability: (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
        uuid: uuid_text(uuid.bytes.map(|byte| byte.to_ne_bytes()[0]), is_part(&name)),
        // As the kernel writes it.
        address: text(&address).to_lowercase(),
        name,
    };
    Ok((device, info))
}

/// The pool that a GPU's memory comes from, told to keep what it has. None if it has no pools.
pub(super) fn pool(device: sys::CUdevice) -> Result<Option<sys::CUmemoryPool>, DriverError> {
    if attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED) != Ok(1) {
        return Ok(None);
    }
    let mut pool = ptr::null_mut();
    // SAFETY: the device is one of the driver's, and the pool is written during the call only.
    let found = unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, device) };
    fault::check(found, format_args!("looking for the memory pool"))?;
    let mut threshold = u64::MAX;
    let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: this attribute is a number of 64 bits, which is read during the call only.
    let set = unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()) };
    fault::check(set, format_args!("having the memory pool keep memory"))?;
    Ok(Some(pool))
}

/// Finds how many bytes a pool keeps that nobody uses.
pub(super) fn pool_unused(pool: sys::CUmemoryPool, bytes: &mut u64) -> CUresult {
    let (mut reserved, mut used) = (0u64, 0u64);
    // In this order, so that what is allocated meanwhile does not count as unused.
    for (attribute, number) in [
        (PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &mut reserved),
        (PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &mut used),
    ] {
        // SAFETY: these attributes are numbers of 64 bits, and are written during the call only.
        match unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut *number).cast()) } {
            CUresult::CUDA_SUCCESS => {}
            error => return error,
        }
    }
    *bytes = reserved.saturating_sub(used);
    CUresult::CUDA_SUCCESS
}

fn attribute(device: sys::CUdevice, attribute: Attribute) -> Result<u32, CUresult> {
    let mut number = 0;
    // SAFETY: the number is written during the call only.
    match unsafe { sys::cuDeviceGetAttribute(&raw mut number, attribute, device) } {
        CUresult::CUDA_SUCCESS => Ok(number.unsigned_abs()),
        error => Err(error),
    }
}

fn checked(result: CUresult, doing: &str) -> Result<(), NoCuda> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        error => Err(no_cuda(error, doing)),
    }
}

fn no_cuda(error: CUresult, doing: &str) -> NoCuda {
    NoCuda::Driver(fault::line(error, format_args!("{doing}")))
}

fn text(bytes: &[u8]) -> String {
    CStr::from_bytes_until_nul(bytes).unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether it is a part of a GPU, by what the driver calls it: `NVIDIA H100 80GB HBM3 MIG 1g.10gb`.
fn is_part(name: &str) -> bool {
    name.contains(" MIG ")
}

/// As NVIDIA's tools write it.
fn uuid_text(bytes: [u8; 16], is_part: bool) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let pieces = [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]].map(hex);
    format!("{}-{}", if is_part { "MIG" } else { "GPU" }, pieces.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_uuids_read_as_nvidias_tools_write_them() {
        let bytes = std::array::from_fn(|at| at as u8 * 0x11);
        assert_eq!(uuid_text(bytes, false), "GPU-00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(uuid_text(bytes, is_part("NVIDIA H100 80GB HBM3 MIG 1g.10gb"))[..13], *"MIG-00112233-");
        assert!(!is_part("NVIDIA H200"));
    }

    #[test]
    fn cuda_names_end_at_their_zero() {
        assert_eq!(text(b"NVIDIA H200\0\0\0"), "NVIDIA H200");
        assert_eq!(text(b"without"), "");
    }
}
