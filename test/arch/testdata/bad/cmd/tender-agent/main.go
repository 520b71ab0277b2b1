// Command tender-agent.
package main

import _ "example.org/bad/agent/dial"

func main() {}
