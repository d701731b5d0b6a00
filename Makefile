# Each target works on a fresh machine: it makes its own environment under .venv*.
# PYTHON chooses the interpreter: make test PYTHON=python3.13

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Without the temporary folder of a user whose home is not writable, and offline-quiet.
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet
# The first pip that knows dependency groups.
NEW_PIP = 'pip>=25.1'
# What the tests need of the extras that users have.
export TESTED_EXTRAS = eventlet,gevent,http,prometheus,redis
# Interpreters for test-pythons; override it: make test-pythons PYTHONS="python3.12"
PYTHONS ?= $(shell tools/find_pythons)
PYTEST_ARGS ?=

.PHONY: demo example test test-injected test-lowest test-pythons test-celery test-celery-integration test-kubernetes collector collectors test-collectors test-collectors-full test-applications compatibility traces screens pictures lint format docs docs-site test-package sbom bench bench-cpu bench-instructions bench-metrics bench-logs bench-collectors faults outage soak servers build clean

demo: .venv-demo/installed
	.venv-demo/bin/otel-celery demo

# FastAPI, a worker and beat for real, and the trace of one order.
example: .venv-web/installed servers
	.venv-web/bin/python examples/fastapi/run.py

test: $(VENV)/tested $(VENV)-plain/installed .venv-web/installed servers
	tools/run_tests $(BIN)/python $(PYTEST_ARGS)

# The lowest versions of every range in pyproject.toml.
test-lowest: .venv-lowest-plain/installed .venv-web/installed servers
	tools/make_lowest .venv-lowest $(PYTHON)
	tools/run_tests .venv-lowest/bin/python $(PYTEST_ARGS)

test-pythons: servers
	@test -n "$(PYTHONS)" || { echo "no Python found: name some, PYTHONS='python3.12 …'"; exit 1; }
	set -e; for python in $(PYTHONS); do \
	  $(MAKE) test PYTHON=$$python VENV=.venv-$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	done

# What no launch may lose, with the celery of an image below an injected tree; six minutes.
# The image has no gevent; the tree traces redis, so a run has more spans than those tests say.
INJECTED = $(CURDIR)/.venv-injected
test-injected: $(VENV)/tested $(VENV)-plain/installed servers
	rm -rf $(INJECTED)
	$(BIN)/otel-celery inject $(INJECTED)/tree > /dev/null
	tools/injected_celery $(INJECTED)/otel-celery $(INJECTED)/tree $(CURDIR)/$(VENV)-plain/bin/celery
	TEST_COMMAND=$(INJECTED)/otel-celery $(BIN)/python -m pytest -n $${TEST_PROCESSES:-3} -m "not timed" \
	  -k "not gevent and not doctor and not makes_no_spans" $(addprefix tests/process/test_,lossless.py killed.py losses.py traces.py)

# Celery's own unit tests, plain and under the launcher: what does worse there is the result.
# Another release: make test-celery CELERY=5.6.*; some tests: make test-celery TESTS=t/unit/app
CELERY ?=
TESTS ?= t/unit
CELERY_VENV = .venv-celery$(if $(CELERY),-tests-$(subst .*,,$(CELERY)))
test-celery: $(VENV)/tested $(CELERY_VENV)/tested
	$(BIN)/python -m tests.upstream.driver $(CELERY_VENV) $(TESTS)

# Celery's integration tests, likewise, on Redis and on RabbitMQ; long.
test-celery-integration: $(VENV)/tested $(CELERY_VENV)/tested servers
	$(BIN)/python -m tests.upstream.driver $(CELERY_VENV) t/integration --broker redis
	$(BIN)/python -m tests.upstream.driver $(CELERY_VENV) t/integration --broker rabbitmq

# Real applications, each in an environment of its own; half an hour, and their packages.
# Some of them: make test-applications APPLICATIONS="director dagster"
APPLICATIONS ?=
test-applications: $(VENV)/tested servers
	rm -rf .venv-applications/wheel
	$(BIN)/python -m build --wheel --outdir .venv-applications/wheel . > /dev/null
	$(BIN)/python -m tests.applications.driver .venv-applications $(PYTHON) .venv-applications/wheel/*.whl $(APPLICATIONS)

# docs/compatibility.md: the matrix on each minor release of Celery; ten minutes.
compatibility: $(VENV)/tested servers
	$(BIN)/python -m tools.make_compatibility

# docs/traces.md: a trace for each way in which a task can end.
traces: $(VENV)/tested servers
	$(BIN)/python -m tools.make_traces

# tests/screens: what tail and doctor show; look at what has changed.
screens: $(VENV)/tested
	$(BIN)/python -m tools.make_screens

# The policy of deploy/kubernetes/inject by the API server's own library, what is for
# kustomize and Helm by these; it needs Go, and six minutes to build.
test-kubernetes: $(VENV)/tested $(VENV)-plain/installed servers
	tools/build_program tests/kubernetes . kubernetes
	tools/build_program tests/kubernetes/helm helm.sh/helm/v4/cmd/helm helm
	tools/build_program tests/kubernetes/kustomize sigs.k8s.io/kustomize/kustomize/v5 kustomize
	TEST_KUBERNETES=$(CURDIR)/.venv-go/kubernetes TEST_KUSTOMIZE=$(CURDIR)/.venv-go/kustomize TEST_HELM=$(CURDIR)/.venv-go/helm $(BIN)/python -m pytest tests/kubernetes

# A Collector with what deploy/collector names, and nothing else; three minutes by Go, and
# seconds once its cache (outside of this folder) has the packages.
collector:
	tools/build_program tests/collector . collector otelcol-contrib

# And Jaeger and Prometheus; a quarter of an hour.
collectors: collector
	tools/build_program tests/collector/jaeger github.com/jaegertracing/jaeger/cmd/jaeger jaeger jaeger
	tools/build_program tests/collector/prometheus github.com/prometheus/prometheus/cmd/prometheus prometheus prometheus
	tools/build_program tests/collector/prometheus github.com/prometheus/prometheus/cmd/promtool promtool promtool

# The files of deploy/collector in a real Collector, with real workers; a minute.
test-collectors: $(VENV)/tested servers collector
	TEST_COLLECTOR=$(CURDIR)/.venv-go/collector $(BIN)/python -m pytest -n $${TEST_PROCESSES:-3} tests/collector

# And in Jaeger and Prometheus.
test-collectors-full: $(VENV)/tested servers collectors
	TEST_COLLECTOR=$(CURDIR)/.venv-go/collector TEST_JAEGER=$(CURDIR)/.venv-go/jaeger \
	  TEST_PROMETHEUS=$(CURDIR)/.venv-go/prometheus TEST_PROMTOOL=$(CURDIR)/.venv-go/promtool \
	  $(BIN)/python -m pytest tests/collector

# docs/pictures: the live page, light and dark; look at what has changed.
pictures: $(VENV)/tested servers
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.make_pictures

lint: $(VENV)/tested
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tools.check_prose

format: $(VENV)/tested
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/tested
	$(BIN)/python -m otel_celery_launcher.settings.reference > docs/settings.md
	$(BIN)/python -m tools.make_metrics

# A site from docs/, in site/; a link that leads nowhere is an error.
docs-site: .venv-release/installed
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. .venv-release/bin/mkdocs build --strict

# dist/: the source distribution, and the wheel that is built from it; the same bytes each
# time. A release gives the address of the repository: make build PROJECT_URL=https://…
export PROJECT_URL ?=
build: .venv-release/installed
	rm -rf dist
	.venv-release/bin/python -m build . > /dev/null
	.venv-release/bin/twine check --strict dist/*

# Both of them, in empty environments of every Python on the machine: make demo. A wheel that
# is built from the folder has the same bytes as theirs, which is from the source distribution.
test-package: build
	@test -n "$(PYTHONS)" || { echo "no Python found: name some, PYTHONS='python3.12 …'"; exit 1; }
	rm -rf build/again
	.venv-release/bin/python -m pip wheel --quiet --no-deps -w build/again .
	cmp build/again/*.whl dist/*.whl
	printf '%s\n' $(PYTHONS) | xargs -P 2 -n 1 tools/test_package dist

# build/sbom.json: the parts of what pip installs today (CycloneDX).
sbom: build
	rm -rf build/sbom && $(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip --disable-pip-version-check install --quiet dist/*.whl
	.venv-release/bin/cyclonedx-py environment --output-reproducible --of JSON -o build/sbom.json build/sbom

# Random faults on a loaded worker, every task accounted for: make faults SEED=7 SECONDS=600
SEED ?=
SECONDS ?= 120
faults: $(VENV)/tested servers
	$(BIN)/python -m tests.faults.driver $(or $(SEED),$$(date +%N)) $(SECONDS)

# A million tasks under faults, all accounted for, memory flat; half an hour.
TASKS ?= 1000000
soak: $(VENV)/tested servers
	$(BIN)/python -m tests.faults.soak $(TASKS) $(or $(SEED),1)

# A minute without a collector at 525 spans a second.
outage: $(VENV)/tested servers
	OUTAGE_SECONDS=60 $(BIN)/python -m pytest -k collector_outage

# Everything beside plain Celery and other launchers: docs/benchmarks.*; three quarters of an hour.
ROUNDS ?= 24
bench: $(VENV)/tested servers
	$(BIN)/python bench/run.py $(ROUNDS)

# Worker CPU a no-op task alone, beside opentelemetry-instrument; two minutes.
bench-cpu: $(VENV)/tested servers
	$(BIN)/python bench/run.py --quick $(ROUNDS)

# Instructions a task by valgrind, which differ by one percent from run to run; eight minutes.
bench-instructions: $(VENV)/tested servers
	$(BIN)/python bench/instructions.py

# What metrics cost, beside the SDK's: docs/metrics.md; a minute.
bench-metrics: $(VENV)/tested
	PYTHONPATH=. $(BIN)/python bench/metrics.py

# What a log record costs, beside the SDK's handler: docs/logs.md; two minutes.
bench-logs: $(VENV)/tested
	$(BIN)/python bench/logs.py

# What a collector of deploy/collector costs: docs/deploy.md; three minutes.
bench-collectors: $(VENV)/tested servers collector
	PYTHONPATH=. $(BIN)/python bench/collectors.py

# Servers the tests start on free ports; installed where we may, else named.
servers:
	@tools/install_servers

# The wheel is what is tested, away from the source folder's package.
$(VENV)/tested: pyproject.toml $(shell find otel_celery_launcher -name '*.py' -o -name '*.css')
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(NEW_PIP)
	$(PIP) '.[$(TESTED_EXTRAS)]' --group dev
	$(PIP) --no-deps --upgrade --target $(VENV)/apart 'celery-batches>=0.11' # which holds Celery back, and works with this one
	$(PIP) --force-reinstall --no-deps .
	touch $@

# Web programs: the launcher turns on what is installed, so not beside the other tests.
.venv-web/installed: pyproject.toml tools/web-constraints.txt $(shell find otel_celery_launcher -name '*.py' -o -name '*.css')
	test -x .venv-web/bin/python || $(PYTHON) -m venv .venv-web
	.venv-web/bin/python -m pip --disable-pip-version-check install --quiet $(NEW_PIP)
	.venv-web/bin/python -m pip --disable-pip-version-check install --quiet --constraint tools/web-constraints.txt '.[auto,redis]' --group web
	.venv-web/bin/python -m pip --disable-pip-version-check install --quiet --force-reinstall --no-deps .
	touch $@

# An application's image, which is traced by an injected tree.
%-plain/installed: tools/make_plain
	tools/make_plain $*-plain $(PYTHON)
	touch $@

# Celery's tests and what they need, some of it in versions that ours cannot have.
$(CELERY_VENV)/tested: tests/upstream/make_environment pyproject.toml $(shell find otel_celery_launcher -name '*.py' -o -name '*.css')
	tests/upstream/make_environment $(CELERY_VENV) $(PYTHON) '$(CELERY)'
	touch $@

.venv-demo/installed: pyproject.toml $(shell find otel_celery_launcher -name '*.py' -o -name '*.css')
	test -x .venv-demo/bin/python || $(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip --disable-pip-version-check install --quiet .
	.venv-demo/bin/python -m pip --disable-pip-version-check install --quiet --force-reinstall --no-deps .
	touch $@

# What a release is made with, in an environment of its own.
.venv-release/installed: pyproject.toml
	test -x .venv-release/bin/python || $(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip --disable-pip-version-check install --quiet $(NEW_PIP)
	.venv-release/bin/python -m pip --disable-pip-version-check install --quiet --group release
	touch $@

clean:
	rm -rf .venv* build dist site
