// Embeds texts with Shoal, and says how alike the first two are and what the answer took:
// go generate && go run . 127.0.0.1:8001 "the cat sat" "a kitten rests"
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"example.com/embed/shoalv1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func main() {
	address, texts := os.Args[1], os.Args[2:]
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	answer, err := embed(ctx, shoalv1.NewInferenceClient(connection), &shoalv1.EmbedRequest{Texts: texts})
	if err != nil {
		log.Fatal(err)
	}
	a, b, similarity := answer.Embeddings[0].Values, answer.Embeddings[1].Values, float32(0)
	for i := range a { // The vectors have length 1, so that this is their cosine.
		similarity += a[i] * b[i]
	}
	fmt.Printf("%d dimensions, similarity %.4f\n", len(a), similarity)
	usage := answer.Usage
	fmt.Printf("%d tokens, queued %v, computed %v\n", usage.Tokens, usage.QueueTime.AsDuration(), usage.ComputeTime.AsDuration())
	for _, batch := range usage.Batches {
		fmt.Printf("batch of %d rows, %d of them ours, %v\n", batch.Rows, batch.OwnRows, batch.CloseReason)
	}
}

// embed asks again when a full server says that it pays, for as long as the deadline of ctx allows.
func embed(ctx context.Context, client shoalv1.InferenceClient, request *shoalv1.EmbedRequest) (*shoalv1.EmbedResponse, error) {
	for {
		answer, err := client.Embed(ctx, request)
		wait := time.Duration(0)
		for _, detail := range status.Convert(err).Details() {
			if retry, ok := detail.(*errdetails.RetryInfo); ok { // Only RESOURCE_EXHAUSTED has it.
				wait = retry.RetryDelay.AsDuration()
			}
		}
		if wait == 0 {
			return answer, err
		}
		log.Printf("the server is full, trying again in %v", wait)
		time.Sleep(wait) // Where that is past the deadline, the next call says so at once.
	}
}
