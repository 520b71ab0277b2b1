# Tender's build. Everything works on a fresh machine with Go and make: what
# else is needed is installed by `make deps`, which the others call.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
MAKEFLAGS   += --no-print-directory

MODULE  := github.com/tenderfleet/tender
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STAMP   := -X $(MODULE)/cmd/internal/version.version=$(VERSION)
BIN     := $(CURDIR)/bin
TALLY   := $(BIN)/tally

TOOL  := go tool -modfile=packaging/tools/go.mod
COUNT := go run ./test/count -tally $(TALLY)

# A containerd 2.x for the tests, beside the machine's own. test/ctrd says which.
CONTAINERD2         := $(shell sed -n 's/^const v2Version = "\(.*\)"/\1/p' test/ctrd/versions.go)
TENDER_CONTAINERD2  ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tender-test/containerd-$(CONTAINERD2)
export TENDER_CONTAINERD2

# A scheduler library for Mesos that the tests drive. test/e2e says which.
MESOS_FRAMEWORK := $(shell sed -n 's/^const mesosFramework = "\(.*\)"/\1/p' test/e2e/scheduler_test.go)
TENDER_NPM      ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tender-test/mesos-framework-$(MESOS_FRAMEWORK)
export TENDER_NPM

# Debian keeps nft and the like where only root looks.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help deps containerd2 npm build deb repo debs test-packages test-vm generate generate-check fmt fmt-check tidy-check \
	vet lint unit sim e2e test fuzz bench demo clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what the machine lacks (apt; asks sudo when not root)
	@packaging/deps

containerd2: deps ## build a containerd 2.x for the tests, once
	@dir=$$TENDER_CONTAINERD2
	if [ -x "$$dir/containerd" ] && [ -x "$$dir/containerd-shim-runc-v2" ]; then exit 0; fi
	echo "containerd2: building containerd $(CONTAINERD2) in $$dir"
	mkdir -p "$$(dirname "$$dir")"
	tmp=$$(mktemp -d "$$(dirname "$$dir")/build.XXXXXX")
	trap 'rm -rf "$$tmp"' EXIT
	# In a module of its own: the product's go.mod stays as it is.
	cd "$$tmp"
	GOFLAGS= go mod init containerd2 2>/dev/null
	GOFLAGS= go get github.com/containerd/containerd/v2@$(CONTAINERD2) 2>/dev/null
	tags='-mod=mod -trimpath -tags=no_btrfs,no_devmapper,no_zfs'
	mkdir out
	GOFLAGS= CGO_ENABLED=1 go build $$tags -o out github.com/containerd/containerd/v2/cmd/containerd
	GOFLAGS= CGO_ENABLED=0 go build $$tags -o out github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
	rm -rf "$$dir"
	mv out "$$dir"

npm: deps ## install the npm package mesos-framework for the tests, once
	@if [ -e "$$TENDER_NPM/node_modules/mesos-framework/package.json" ]; then exit 0; fi
	echo "npm: installing mesos-framework $(MESOS_FRAMEWORK) in $$TENDER_NPM"
	mkdir -p "$$TENDER_NPM"
	npm install --prefix "$$TENDER_NPM" --ignore-scripts --no-audit --no-fund --loglevel error mesos-framework@$(MESOS_FRAMEWORK) >/dev/null

# The agent looks NVML up when it runs: on a machine without GPUs there is no
# such library, and lazy binding lets the agent start all the same.
build: deps ## build bin/tender, bin/tenderd, bin/tender-agent, bin/tender-log
	@mkdir -p $(BIN)
	CGO_ENABLED=0 go build -trimpath -ldflags '$(STAMP)' -o $(BIN) ./cmd/tender ./cmd/tenderd
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(BIN) ./cmd/tender-log
	CGO_ENABLED=1 go build -trimpath -ldflags '$(STAMP) -extldflags=-Wl,-z,lazy' -o $(BIN) ./cmd/tender-agent

deb: deps ## build the Debian packages for amd64 and arm64 in dist/
	@packaging/deb dist "$$(packaging/version)"

# ADD names further packages or directories of them, such as containerd and runc
# for the machines' release of Debian.
repo: deb ## make a signed apt repository of the packages in dist/repo (TENDER_REPO_KEYS=DIR for its key)
	@packaging/repo dist/repo dist/*_"$$(packaging/version)"-1_*.deb $(ADD)

# Where schemas are, and the code of them that generate writes, with the plugin
# in the version of go.mod.
SCHEMAS := transport/wire/pb controlplane/api/mesosv1/pb
OUT     := .

generate: deps ## write the generated code anew
	@mkdir -p $(BIN)/tools
	GOBIN=$(BIN)/tools go install google.golang.org/protobuf/cmd/protoc-gen-go
	for dir in $(SCHEMAS); do
		mkdir -p "$(OUT)/$$dir"
		PATH=$(BIN)/tools:$$PATH protoc -I "$$dir" --go_out="$(OUT)/$$dir" --go_opt=paths=source_relative "$$dir"/*.proto
	done

generate-check: deps
	@tmp=$$(mktemp -d)
	trap 'rm -rf "$$tmp"' EXIT
	$(MAKE) generate OUT="$$tmp"
	for dir in $(SCHEMAS); do
		# Machines differ in protoc's version, which stands in the files' heads.
		diff -ru -I '^// 	protoc  ' -x '*.proto' -x doc.go "$$dir" "$$tmp/$$dir" ||
			{ echo "generate-check: $$dir is not what its schemas say: make generate" >&2; exit 1; }
	done

fmt: ## format the code
	@$(TOOL) gofumpt -w .

fmt-check:
	@list=$$($(TOOL) gofumpt -l .)
	[ -z "$$list" ] || { echo "$$list"; echo 'fmt-check: these are not formatted: make fmt' >&2; exit 1; }

tidy-check:
	@go mod tidy -diff || { echo 'tidy-check: go mod tidy' >&2; exit 1; }

vet:
	@go vet ./...

lint: ## look for mistakes that a machine can see
	@$(TOOL) golangci-lint run

# The simulation is one goroutine and has its own target; e2e needs programs.
unit: deps containerd2 ## test the packages, with the race detector
	@mkdir -p $(BIN)
	$(COUNT) go test -race -shuffle=on -count=1 -timeout 15m \
		$$(go list ./... | grep -v -e '^$(MODULE)/test/sim' -e '^$(MODULE)/test/e2e' -e '^$(MODULE)/test/packages' -e '^$(MODULE)/test/vm$$')

sim: ## simulate the fleet from 2,000 seeds
	@mkdir -p $(BIN)
	GOGC=800 $(COUNT) go test -count=1 -timeout 15m ./test/sim -seeds 2000

# Half of the time these wait for time-outs: two packages run side by side.
e2e: build containerd2 npm ## test the programs in network namespaces (needs root)
	@TENDER_BIN=$(BIN) $(COUNT) go test -count=1 -p 2 -timeout 30m ./test/e2e/...

# Machines are upgraded from one build to another of the same commit.
debs: deps
	@rm -rf $(BIN)/debs
	arch=$$(dpkg --print-architecture)
	PACKAGES=tender-agent packaging/deb $(BIN)/debs/old 0.1.1 "$$arch" >/dev/null
	packaging/deb $(BIN)/debs/new 0.1.2 "$$arch" >/dev/null

test-packages: debs ## test the Debian packages on a machine that runs systemd (needs root)
	@TENDER_DEBS=$(BIN)/debs $(COUNT) go test -count=1 -timeout 10m -skip '^TestVirtual' ./test/packages

# Not among the steps below: where the processor cannot lend itself it takes ten
# minutes.
test-vm: debs ## test on virtual machines: control groups of version 2, loss of power (needs root)
	@packaging/deps vm
	TENDER_DEBS=$(BIN)/debs go test -count=1 -p 1 -timeout 60m -v -run '^TestVirtual' ./test/vm ./test/packages

# Each step is done, whatever became of the ones before, so that one run tells
# everything.
STEPS := vet fmt-check generate-check tidy-check lint unit sim e2e test-packages

test: deps ## do all checks and tests
	@mkdir -p $(BIN)
	rm -f $(TALLY)
	failed=
	for step in $(STEPS); do
		echo "--- $$step"
		begin=$$SECONDS
		if $(MAKE) $$step; then echo "--- $$step: passed in $$((SECONDS - begin)) s"
		else echo "--- $$step: FAILED after $$((SECONDS - begin)) s"; failed+=" $$step"; fi
	done
	[ -z "$$failed" ] || echo "failed:$$failed"
	line=$$(go run ./test/count -sum $(TALLY)) && [ -z "$$failed" ] || { echo "$${line:-tests: none ran}"; exit 1; }
	echo "$$line"

fuzz: ## fuzz each decoder for FUZZTIME (10s)
	@grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$$file"); do
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime "$${FUZZTIME:-10s}" "./$$(dirname "$$file")"
		done
	done

bench: ## run the benchmarks
	@go test -run '^$$' -bench . -benchmem ./... | grep -v -e '^?' -e '^ok' -e '^PASS'

demo: build ## a trio, a NAT and agents behind it, on this machine (needs root)
	@go build -o $(BIN)/demo ./test/demo
	if [ "$$(id -u)" = 0 ]; then $(BIN)/demo $(BIN); else sudo $(BIN)/demo $(BIN); fi

clean: ## remove what was built
	@rm -rf bin dist
