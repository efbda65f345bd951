//! Element types under the protocol's names.

use shoal_proto::inference;

use crate::call::DataType;

impl DataType {
    /// As tensors of the protocol name it.
    pub(super) fn protocol_name(self) -> &'static str {
        match self {
            Self::F32 => "FP32",
            Self::F16 => "FP16",
            Self::Bf16 => "BF16",
            Self::I8 => "INT8",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::U8 => "UINT8",
            Self::U32 => "UINT32",
            Self::Bool => "BOOL",
            Self::Bytes => "BYTES",
        }
    }

    /// As a Triton model configuration names it.
    pub(super) fn config_name(self) -> inference::DataType {
        match self {
            Self::F32 => inference::DataType::TypeFp32,
            Self::F16 => inference::DataType::TypeFp16,
            Self::Bf16 => inference::DataType::TypeBf16,
            Self::I8 => inference::DataType::TypeInt8,
            Self::I32 => inference::DataType::TypeInt32,
            Self::I64 => inference::DataType::TypeInt64,
            Self::U8 => inference::DataType::TypeUint8,
            Self::U32 => inference::DataType::TypeUint32,
            Self::Bool => inference::DataType::TypeBool,
            Self::Bytes => inference::DataType::TypeString,
        }
    }

    /// Bytes of one element; `None` where elements differ.
    pub(super) fn element_bytes(self) -> Option<usize> {
        match self {
            Self::I8 | Self::U8 | Self::Bool => Some(1),
            Self::F16 | Self::Bf16 => Some(2),
            Self::F32 | Self::I32 | Self::U32 => Some(4),
            Self::I64 => Some(8),
            Self::Bytes => None,
        }
    }
}
