# Completion of ecs-agent and ecs-image for bash. Options and commands are read from --help, so that
# they are those of the program that is installed.

_ecs_options() {
	"$1" --help 2>/dev/null | sed -n 's/^  \(--[a-z-]*\).*/\1/p'
}

# Those in a list, and one that stands in the first line.
_ecs_commands() {
	"$1" --help 2>/dev/null | sed -n -e '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' \
		-e '1s/.*\[\([a-z]*\) \.\.\.\].*/\1/p'
}

# Names of images in the store, which root alone can list.
_ecs_references() {
	[ "$(id -u)" -eq 0 ] && "$1" ls 2>/dev/null | sed 1d | cut -d' ' -f1
}

_ecs() {
	local program=$1 word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} i
	local command=

	COMPREPLY=()
	case "$before" in
	--config)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
		;;
	--state-dir | --runtime-dir)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -d -- "$word")
		return
		;;
	--username)
		return
		;;
	esac
	if [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_ecs_options "$program")" -- "$word")
		return
	fi

	for ((i = 1; i < COMP_CWORD; i++)); do
		case "${COMP_WORDS[i]}" in
		--config | --state-dir | --runtime-dir | --username) ((i++)) ;;
		-*) ;;
		*) command=${COMP_WORDS[i]} && break ;;
		esac
	done
	case "$command" in
	"") mapfile -t COMPREPLY < <(compgen -W "$(_ecs_commands "$program")" -- "$word") ;;
	rm | inspect)
		mapfile -t COMPREPLY < <(compgen -W "$(_ecs_references "$program")" -- "$word")
		;;
	esac
}

complete -F _ecs ecs-agent ecs-image
