// Shows what a MutatingAdmissionPolicy makes of a pod, by the API server's own library and
// without a cluster:
//
//	kubernetes POLICY POD
//
// Both are files of YAML. It writes the pod to standard output, or an error to standard
// error and ends with 1.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	apiservercel "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

var pods = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}

func main() {
	if len(os.Args) != 3 {
		fail(errors.New("usage: kubernetes POLICY POD"))
	}
	text, err := mutate(os.Args[1:])
	if err != nil {
		fail(err)
	}
	fmt.Print(text)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// mutate returns a pod as a policy changes it: its selector, its conditions, its mutations.
func mutate(arguments []string) (string, error) {
	policy := &v1.MutatingAdmissionPolicy{}
	pod := &corev1.Pod{}
	for index, into := range []any{policy, pod} {
		data, err := os.ReadFile(arguments[index])
		if err != nil {
			return "", err
		}
		// Strict: a key that is not known is an error.
		if err := yaml.UnmarshalStrict(data, into); err != nil {
			return "", fmt.Errorf("%s: %w", arguments[index], err)
		}
	}
	found, err := apply(policy, pod)
	if err != nil {
		return "", err
	}
	text, err := yaml.Marshal(found)
	return string(text), err
}

func apply(policy *v1.MutatingAdmissionPolicy, pod *corev1.Pod) (runtime.Object, error) {
	isSelected, err := selects(policy, pod)
	if err != nil || !isSelected {
		return pod, err
	}
	options := plugincel.OptionalVariableDeclarations{HasAuthorizer: true}
	compiler, err := plugincel.NewCompositedCompiler(
		environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, err
	}
	variables := []plugincel.NamedExpressionAccessor{}
	for _, each := range policy.Spec.Variables {
		variables = append(variables, &validating.Variable{Name: each.Name, Expression: each.Expression})
	}
	compiler.CompileAndStoreVariables(variables, options, environment.StoredExpressions)
	attributes, err := created(pod)
	if err != nil {
		return nil, err
	}
	ctx := compiler.CreateContext(context.Background())
	isMatched, err := matches(ctx, compiler, options, policy, attributes)
	if err != nil || !isMatched {
		return pod, err
	}
	options.HasPatchTypes = true
	for _, each := range policy.Spec.Mutations {
		if each.PatchType != v1.PatchTypeJSONPatch {
			return nil, errors.New("only JSONPatch is evaluated here")
		}
		accessor := &patch.JSONPatchCondition{Expression: each.JSONPatch.Expression}
		evaluator := compiler.CompileMutatingEvaluator(accessor, options, environment.StoredExpressions)
		changed, err := patch.NewJSONPatcher(evaluator).Patch(ctx, patch.Request{
			MatchedResource:     schema.GroupVersionResource{Version: "v1", Resource: "pods"},
			VersionedAttributes: attributes,
			ObjectInterfaces:    admission.NewObjectInterfacesFromScheme(scheme.Scheme),
		}, apiservercel.RuntimeCELCostBudget)
		if err != nil {
			return nil, err
		}
		attributes.UpdateObject(changed)
	}
	return attributes.VersionedObject.Object(), nil
}

// created returns the request that creates a pod, as the API server makes it.
func created(pod *corev1.Pod) (*admission.VersionedAttributes, error) {
	pod.SetGroupVersionKind(pods)
	resource := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	record := admission.NewAttributesRecord(
		pod, nil, pods, pod.Namespace, pod.Name, resource, "", admission.Create, nil, false, nil)
	interfaces := admission.NewObjectInterfacesFromScheme(scheme.Scheme)
	return admission.NewVersionedAttributes(record, pods, interfaces)
}

func matches(
	ctx context.Context, compiler *plugincel.CompositedCompiler,
	options plugincel.OptionalVariableDeclarations, policy *v1.MutatingAdmissionPolicy,
	attributes *admission.VersionedAttributes,
) (bool, error) {
	accessors := []plugincel.ExpressionAccessor{}
	for index := range policy.Spec.MatchConditions {
		accessors = append(accessors, (*matchconditions.MatchCondition)(&policy.Spec.MatchConditions[index]))
	}
	evaluator := compiler.CompileCondition(accessors, options, environment.StoredExpressions)
	matcher := matchconditions.NewMatcher(
		evaluator, policy.Spec.FailurePolicy, "policy", "mutate", policy.Name)
	result := matcher.Match(ctx, attributes, nil, nil)
	return result.Matches, result.Error
}

func selects(policy *v1.MutatingAdmissionPolicy, pod *corev1.Pod) (bool, error) {
	constraints := policy.Spec.MatchConstraints
	if constraints == nil || constraints.ObjectSelector == nil {
		return false, errors.New("the policy selects every pod of the cluster")
	}
	selector, err := metav1.LabelSelectorAsSelector(constraints.ObjectSelector)
	if err != nil {
		return false, err
	}
	return selector.Matches(labels.Set(pod.Labels)), nil
}
