#compdef ecs-agent ecs-image
# Completion for zsh. Options and commands are read from --help, so that they are those of the
# program that is installed.

local -a flags verbs
local line

for line in "${(@f)$($words[1] --help 2>/dev/null)}"; do
	if [[ $line =~ '^  (--[a-z-]+)( [A-Z]+)? +(.*)$' ]]; then
		flags+=("${match[1]}:${match[3]}")
	elif [[ $line =~ '^  ([a-z]+)( [A-Z]+)? +(.*)$' ]]; then
		verbs+=("${match[1]}:${match[3]}")
	elif [[ $line =~ '^Usage: .*\[([a-z]+) \.\.\.\]' ]]; then
		verbs+=("${match[1]}")
	fi
done

case $words[CURRENT-1] in
--config) _files ;;
--state-dir | --runtime-dir) _files -/ ;;
*)
	if [[ $words[CURRENT] == -* ]]; then
		_describe option flags
	elif ((${#verbs})); then
		_describe command verbs
	fi
	;;
esac
