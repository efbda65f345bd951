package main

// Writes shoalv1/: the messages and the client of shoal.v1. Needs protoc, protoc-gen-go and protoc-gen-go-grpc.
//go:generate protoc -I ../../proto --go_out=. --go-grpc_out=. --go_opt=module=example.com/embed,Mshoal/v1/inference.proto=example.com/embed/shoalv1 --go-grpc_opt=module=example.com/embed,Mshoal/v1/inference.proto=example.com/embed/shoalv1 shoal/v1/inference.proto
