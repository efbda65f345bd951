use super::super::testing::{classifier, echo, embedder, masker, reranker, several};
use super::*;

#[test]
fn only_what_is_offered_is_advertised() {
    let metadata = server_metadata();
    assert_eq!(metadata.name, "shoal");
    for absent in ["system_shared_memory", "cuda_shared_memory", "sequence", "classification", "binary_tensor_data"] {
        assert!(!metadata.extensions.iter().any(|extension| extension == absent), "{absent}");
    }
    for present in ["statistics", "model_configuration", "parameters"] {
        assert!(metadata.extensions.iter().any(|extension| extension == present), "{present}");
    }
}

#[test]
fn a_text_model_shows_one_input_that_clients_can_fill_by_themselves() {
    let metadata = model_metadata(&embedder());
    let [text] = &metadata.inputs[..] else { panic!("{metadata:?}") };
    assert_eq!((text.name.as_str(), text.datatype.as_str(), &text.shape[..]), ("text", "BYTES", &[-1, 1][..]));
    let [embedding] = &metadata.outputs[..] else { panic!("{metadata:?}") };
    let shown = (embedding.name.as_str(), embedding.datatype.as_str(), &embedding.shape[..]);
    assert_eq!(shown, ("embedding", "FP32", &[-1, 4][..]));
    assert_eq!((metadata.name.as_str(), metadata.platform.as_str()), ("minilm", "test"));
    assert_eq!(metadata.versions, ["1"]);
}

#[test]
fn ids_are_told_of_in_the_configuration() {
    let parameters = model_config(&embedder()).parameters;
    assert!(parameters["inputs_instead_of_text"].string_value.contains("input_ids INT64"));
    assert_eq!(parameters["tokens_max"].string_value, "8");
    assert_eq!(parameters["vocabulary"].string_value, "1000");
    assert!(!model_config(&echo()).parameters.contains_key("tokens_max"));
}

#[test]
fn the_configuration_is_the_metadata_without_rows() {
    for signature in [embedder(), echo(), several(), classifier(), reranker(), masker()] {
        let (metadata, config) = (model_metadata(&signature), model_config(&signature));
        let shown: Vec<_> = metadata.inputs.iter().map(|it| (it.name.clone(), it.shape[1..].to_vec())).collect();
        let configured: Vec<_> = config.input.iter().map(|it| (it.name.clone(), it.dims.clone())).collect();
        assert_eq!(shown, configured);
        let shown: Vec<_> = metadata.outputs.iter().map(|it| (it.name.clone(), it.shape[1..].to_vec())).collect();
        let configured: Vec<_> = config.output.iter().map(|it| (it.name.clone(), it.dims.clone())).collect();
        assert_eq!(shown, configured);
        assert!(metadata.inputs.iter().chain(&metadata.outputs).all(|tensor| tensor.shape[0] == -1));
        assert_eq!(config.name, metadata.name);
    }
}

#[test]
fn every_model_batches_dynamically_and_answers_once() {
    let config = model_config(&echo());
    assert_eq!(config.max_batch_size, 64);
    assert!(matches!(config.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_))));
    assert_eq!(config.model_transaction_policy, Some(ModelTransactionPolicy { decoupled: false }));
    assert!(config.input.iter().all(|input| !input.optional));
}

#[test]
fn types_go_by_their_two_names() {
    let (metadata, config) = (model_metadata(&several()), model_config(&several()));
    let names: Vec<_> = metadata.inputs.iter().map(|tensor| tensor.datatype.as_str()).collect();
    assert_eq!(names, ["UINT8", "BOOL", "FP16", "INT8", "BYTES"]);
    let names: Vec<_> = config.input.iter().map(|tensor| tensor.data_type().as_str_name()).collect();
    assert_eq!(names, ["TYPE_UINT8", "TYPE_BOOL", "TYPE_FP16", "TYPE_INT8", "TYPE_STRING"]);
}

#[test]
fn heads_show_their_texts_and_which_of_them_are_optional() {
    let shown = |signature: &Signature| {
        let inputs = model_config(signature).input.into_iter();
        inputs.map(|input| (input.name, input.optional, input.dims)).collect::<Vec<_>>()
    };
    let input = |name: &str, optional| (name.to_owned(), optional, vec![1]);
    assert_eq!(shown(&classifier()), [input("text", false), input("text_pair", true)]);
    assert_eq!(shown(&reranker()), [input("text", false), input("query", false)]);
    assert_eq!(shown(&masker()), [input("text", false)]);
    let outputs = |signature: &Signature| {
        let outputs = model_metadata(signature).outputs.into_iter();
        outputs.map(|output| (output.name, output.datatype, output.shape)).collect::<Vec<_>>()
    };
    let output = |name: &str, datatype: &str, shape: &[i64]| (name.to_owned(), datatype.to_owned(), shape.to_vec());
    assert_eq!(outputs(&classifier()), [output("scores", "FP32", &[-1, 2])]);
    assert_eq!(outputs(&reranker()), [output("scores", "FP32", &[-1])]);
    assert_eq!(outputs(&masker()), [output("token_ids", "INT64", &[-1, -1]), output("scores", "FP32", &[-1, -1])]);
}

#[test]
fn labels_segments_and_the_mask_are_told_of_in_the_configuration() {
    let parameters = model_config(&classifier()).parameters;
    assert_eq!(parameters["labels"].string_value, r#"["no \"way\"","yes"]"#);
    assert!(parameters["inputs_instead_of_text"].string_value.contains("token_type_ids INT64"));
    let parameters = model_config(&masker()).parameters;
    assert_eq!(parameters["mask_token"].string_value, "<mask>");
    assert!(!parameters["inputs_instead_of_text"].string_value.contains("token_type_ids"));
    assert!(!parameters.contains_key("labels"));
}
