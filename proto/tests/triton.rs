//! Holds our `inference` package to Triton's wire: every message, field, enum value and call of `triton.tsv`, which
//! `triton.py` reads from the newest tritonclient, is ours too, and we have none besides.

#![expect(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
};

const TABLE: &str = include_str!("triton.tsv");

#[test]
fn every_name_and_number_is_tritons() {
    let theirs: BTreeSet<String> = TABLE.lines().filter(|line| !line.starts_with('#')).map(String::from).collect();
    let ours = rows();
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let besides: Vec<_> = ours.difference(&theirs).collect();
    assert!(missing.is_empty() && besides.is_empty(), "missing here: {missing:#?}\nunknown to Triton: {besides:#?}");
}

#[test]
fn the_table_holds_all_twenty_calls_and_what_matters_most() {
    assert_eq!(TABLE.lines().filter(|line| line.starts_with("call\t")).count(), 20);
    for row in [
        "field\tinference.ModelInferRequest\traw_input_contents\t7\tbytes\trepeated\t-",
        "field\tinference.ModelInferResponse\traw_output_contents\t6\tbytes\trepeated\t-",
        "call\tinference.GRPCInferenceService\tModelStreamInfer\tinference.ModelInferRequest\tinference.ModelStreamInferResponse\tstream-stream",
    ] {
        assert!(TABLE.lines().any(|line| line == row), "{row}");
    }
}

/// Our descriptors as rows of the table.
fn rows() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(shoal_proto::DESCRIPTORS).unwrap();
    let mut rows = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package() == "inference") {
        for entry in &file.enum_type {
            enum_rows(file.package(), entry, &mut rows);
        }
        for entry in &file.message_type {
            message_rows(file.package(), entry, &mut rows);
        }
        for service in &file.service {
            let path = format!("{}.{}", file.package(), service.name());
            rows.extend(service.method.iter().map(|call| call_row(&path, call)));
        }
    }
    rows
}

fn message_rows(scope: &str, entry: &DescriptorProto, rows: &mut BTreeSet<String>) {
    let path = format!("{scope}.{}", entry.name());
    rows.extend(entry.field.iter().map(|field| field_row(&path, entry, field)));
    for nested in &entry.enum_type {
        enum_rows(&path, nested, rows);
    }
    for nested in &entry.nested_type {
        message_rows(&path, nested, rows);
    }
    rows.insert(format!("message\t{path}"));
}

fn field_row(path: &str, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = field.name();
    let number = field.number();
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let label = if field.label() == Label::Repeated { "repeated" } else { "single" };
    let group = field.oneof_index.map_or("-", |index| message.oneof_decl[usize::try_from(index).unwrap()].name());
    format!("field\t{path}\t{name}\t{number}\t{kind}\t{label}\t{group}")
}

fn enum_rows(scope: &str, entry: &EnumDescriptorProto, rows: &mut BTreeSet<String>) {
    let path = format!("{scope}.{}", entry.name());
    rows.extend(entry.value.iter().map(|value| format!("value\t{path}\t{}\t{}", value.name(), value.number())));
}

fn call_row(path: &str, call: &MethodDescriptorProto) -> String {
    let side = |streams: bool| if streams { "stream" } else { "one" };
    let (from, to) = (call.input_type().trim_start_matches('.'), call.output_type().trim_start_matches('.'));
    let streams = format!("{}-{}", side(call.client_streaming()), side(call.server_streaming()));
    format!("call\t{path}\t{}\t{from}\t{to}\t{streams}", call.name())
}
