use super::{Trace, TraceError};

fn parse(text: &str) -> Result<Trace, TraceError> {
    Trace::parse("t.csv", "seconds", text)
}

#[test]
fn reads_times_and_lengths_among_other_columns() {
    let trace = parse("\u{feff}name, tokens ,seconds\r\na,16,0.5\r\nb, 8 ,1e0\r\nc,32,2.5").unwrap();
    assert_eq!((trace.calls, trace.span_s, trace.rate()), (3, 2.0, 1.0));
    assert_eq!([0, 1, 2, 3].map(|number| trace.moment(number)), [Some(0.0), Some(0.5), Some(2.0), None]);
    assert_eq!(trace.tokens().unwrap()[..], [16, 8, 32]);
}

#[test]
fn times_may_have_another_name_and_lengths_may_be_left_out() {
    let trace = Trace::parse("t.csv", "at", "at,seconds\n1,x\n1,\n3,z\n").unwrap();
    assert_eq!((trace.rate(), trace.tokens()), (1.0, None));
}

#[test]
fn a_trace_may_say_what_each_call_is_for() {
    let trace = parse("seconds,model\n1,b\n2,a\n3,b\n").unwrap();
    let models = trace.models().unwrap();
    assert_eq!(models.names(), ["b", "a"]);
    assert_eq!([0, 1, 2, 3].map(|number| models.of_call(number)), [0, 1, 0, 0]);
    assert_eq!(parse("seconds\n1\n2\n").unwrap().models(), None);
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_its_column() {
    let wrong = [
        ("", "line 1, column seconds: the file is empty"),
        ("time,tokens\n1,2\n", "line 1, column seconds: there is no such column, only time, tokens"),
        ("seconds,seconds\n1,2\n", "line 1, column seconds: there are several columns of this name"),
        ("seconds,tokens,tokens\n1,2,3\n", "line 1, column tokens: there are several columns of this name"),
        ("seconds,\"tokens\"\n1,2\n", "line 1, column \"tokens\": quotes are not understood"),
        ("seconds\n", "line 2, column seconds: there is no call"),
        ("seconds\n1\n", "line 2, column seconds: the first and the last call must be at two moments"),
        ("seconds\n1\n1\n", "line 3, column seconds: the first and the last call must be at two moments"),
        ("seconds\n1\n2\n1.5\n", "line 4, column seconds: `1.5` is before 2, the line above"),
        ("seconds\n-1\n", "line 2, column seconds: `-1` is negative"),
        ("seconds\n1\ninf\n", "line 3, column seconds: `inf` is not finite"),
        ("seconds\nNaN\n", "line 2, column seconds: `NaN` is not finite"),
        ("seconds\n1e999\n", "line 2, column seconds: `1e999` is not finite"),
        ("seconds\n1\n\n2\n", "line 3, column seconds: empty, where a number of seconds is needed"),
        ("seconds\n2023-11-16 18:17:03\n", "line 2, column seconds: `2023-11-16 18:17:03` is no number of seconds"),
        ("a,seconds\nx,1\n\"y\",2\n", "line 3, column a: quotes are not understood"),
        ("seconds,tokens\n1\n", "line 2, column tokens: 1 fields, where the header has 2"),
        ("seconds\n1,5\n", "line 2, column 2: 2 fields, where the header has 1"),
        ("seconds,tokens\n1,0\n", "line 2, column tokens: `0` is no number of tokens from 1 to 65536"),
        ("seconds,tokens\n1,\n", "line 2, column tokens: `` is no number of tokens from 1 to 65536"),
        ("seconds,model\n1,\n", "line 2, column model: empty, where a model's name is needed"),
        ("seconds,tokens\n1,2.5\n", "line 2, column tokens: `2.5` is no number of tokens from 1 to 65536"),
    ];
    for (text, expected) in wrong {
        assert_eq!(parse(text).unwrap_err().to_string(), format!("t.csv, {expected}"), "{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Trace::read("/no/such/file".as_ref(), "seconds").unwrap_err().to_string();
    assert!(error.starts_with("cannot read the trace /no/such/file: "), "{error}");
}
