# shellcheck shell=bash
# Terraform is the user's own program: where neither it nor OpenTofu is here, Go builds OpenTofu, and the one provider that is run.
terraform_leg() {
    local state
    make --no-print-directory build/terraform/.done
    state=$(make --no-print-directory terraform-state | tail -n 1)
    if [ "$state" = ready ] || command -v go >/dev/null; then
        leg_tried test-terraform make test-terraform
    else
        legs+=("test-terraform left out: $state")
    fi
}
