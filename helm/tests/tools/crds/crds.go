// Package crds names the kinds that are asked for, so that their module is kept.
package crds

import _ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
